"""Two corrections to LocalStack's gateway.

1. LocalStack decompresses every gzip request before any service sees it, whereas Amazon API Gateway does not
   decompress binary media types. Without the correction, an invalid gzip body results in HTTP 500, and a gzip bomb
   of 200 MB is decompressed completely.
2. LocalStack's Twisted server listens on every interface, regardless of the settings. Because functions run as
   processes, any host on the network could then run code on this machine. (LocalStack's other server, hypercorn,
   respects the settings, but cannot keep the connections of boto3 open between requests.)
"""

import functools
from collections.abc import Callable

from localstack.aws.api import RequestContext
from localstack.aws.chain import HandlerChain
from localstack.aws.handlers.codec import ContentDecoder
from localstack.http import Response
from localstack.runtime import hooks


def is_rest_api_call(path: str, host: str) -> bool:
    """Return whether a request is for a deployed REST API (LocalStack has three URL forms) rather than for an
    AWS API.
    """
    if path.startswith("/restapis/"):
        return "/_user_request_" in path  # the other paths are API Gateway's control plane
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
        def __init__(self, reactor: object, port: int, backlog: int = 1024) -> None:
            super().__init__(reactor, port, backlog, interface="127.0.0.1")

    endpoints.TCP4ServerEndpoint = LoopbackEndpoint
