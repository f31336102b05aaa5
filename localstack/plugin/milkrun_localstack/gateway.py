"""LocalStack inflates every gzip request before any service sees it; Amazon API Gateway does not for binary
media types.

Inflating at the door also means that a bad body answers 500, and that a 200 MB bomb is inflated in full.
"""

import functools
from collections.abc import Callable

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
