"""Two corrections to LocalStack's gateway.

It inflates every gzip request before any service sees it; Amazon API Gateway does not for binary media types.
Inflating at the door also means that a bad body answers 500, and that a 200 MB bomb is inflated in full.

And its server listens on every interface, whatever address it is told: with functions as processes that would
let the whole network run code here. (Its other server, hypercorn, listens where it is told, but has to close
the connection after each answer to boto3.)
"""

import functools
from collections.abc import Callable
from typing import Any

from localstack.aws.api import RequestContext
from localstack.aws.chain import HandlerChain
from localstack.aws.handlers.codec import ContentDecoder
from localstack.http import Response
from localstack.runtime import hooks


def is_rest_api_call(path: str, host: str) -> bool:
    """True for the three ways in which LocalStack serves a deployed REST API, and for none of its own AWS
    APIs.
    """
    if path.startswith("/restapis/"):
        return "/_user_request_" in path  # the others are the control plane of API Gateway
    return path.startswith("/_aws/execute-api/") or ".execute-api." in host


@hooks.on_infra_start()
def keep_gzip_bodies() -> None:
    decode: Callable[..., None] = ContentDecoder.__call__

    @functools.wraps(decode)
    def decode_unless_rest_api(
        self: ContentDecoder, chain: HandlerChain, context: RequestContext, response: Response
    ) -> None:
        if not is_rest_api_call(context.request.path, context.request.host):
            decode(self, chain, context, response)

    ContentDecoder.__call__ = decode_unless_rest_api


@hooks.on_infra_start()
def listen_on_loopback() -> None:
    from twisted.internet import endpoints

    class LoopbackEndpoint(endpoints.TCP4ServerEndpoint):
        def __init__(self, reactor: Any, port: int, backlog: int = 1024) -> None:
            super().__init__(reactor, port, backlog, interface="127.0.0.1")

    endpoints.TCP4ServerEndpoint = LoopbackEndpoint
