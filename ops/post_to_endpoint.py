"""Post events to a stage as its operator.

If the stage requires tokens, the ingest function is invoked instead of the API, because a token belongs to a
device, and an operator has none. Anyone who may invoke the function may send events on behalf of every device.
"""

import base64
import json
from collections.abc import Callable

import botocore.exceptions
import urllib3

from ops import reachable_stores
from ops.stage_outputs import Outputs


class NoAnswerError(Exception):
    """Raised if the stage does not answer, or its answer is not Milkrun's. The message contains the reason.

    If `is_final` is true, a repeated request would fail, too, for example because a permission is missing.
    """

    def __init__(self, line: str, *, is_final: bool = False) -> None:
        super().__init__(line)
        self.is_final = is_final


type Post = Callable[[bytes, str], tuple[int, bytes]]
"""Sends a body with its content type; returns the status and the body of the response. Raises NoAnswerError, also
if the response lacks a receipt (`lacks_receipt`).
"""


def lacks_receipt(status: int, answer: object) -> bool:
    """Return whether a response is a 2xx or 400 that does not come from Milkrun. The events may then not be stored.

    `answer` is the JSON value of the response's body. Milkrun's 2xx and 400 contain `received`. Those of a proxy, a
    captive portal or API Gateway itself do not. `request_id` is no criterion, because API Gateway's 400 contains it.
    """
    settles = 200 <= status < 300 or status == 400
    return settles and not (isinstance(answer, dict) and "received" in answer)


def poster(outputs: Outputs) -> Post:
    return _invoke(outputs) if outputs.ingest_function else _post(outputs)


def _post(outputs: Outputs) -> Post:
    http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=3, read=32))

    def post(body: bytes, content_type: str) -> tuple[int, bytes]:
        headers = {"x-api-key": outputs.api_key, "content-type": content_type, "user-agent": "milkrun-ops"}
        try:
            answer = http.request("POST", outputs.endpoint, body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise NoAnswerError(f"no answer from {outputs.endpoint} ({type(error).__name__})") from error
        try:
            receipt = json.loads(answer.data)
        except ValueError:
            receipt = None
        if lacks_receipt(answer.status, receipt):
            raise NoAnswerError(
                f"{outputs.endpoint} answered {answer.status} without a receipt, so the response is not from Milkrun"
            )
        return answer.status, answer.data

    return post


def _invoke(outputs: Outputs) -> Post:
    reachable_stores.require(outputs, "Lambda")
    functions = outputs.aws("lambda")

    def invoke(body: bytes, content_type: str) -> tuple[int, bytes]:
        headers = {"content-type": content_type, "user-agent": "milkrun-ops"}
        request = {"headers": headers, "body": base64.b64encode(body).decode(), "isBase64Encoded": True}
        payload = json.dumps(request, allow_nan=False)
        try:
            invoked = functions.invoke(FunctionName=outputs.ingest_function, Payload=payload)
            answer = json.loads(invoked["Payload"].read())
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            metadata = getattr(error, "response", {}).get("ResponseMetadata", {})
            status = metadata.get("HTTPStatusCode", 500)
            is_final = status < 500 and status not in (408, 429)
            raise NoAnswerError(f"no answer ({error})", is_final=is_final) from error
        if "statusCode" not in answer:
            raise NoAnswerError(f"no answer (the function failed: {invoked.get('FunctionError')})")
        return int(answer["statusCode"]), str(answer["body"]).encode()

    return invoke
