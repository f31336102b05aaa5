"""DynamoDB, emulated by moto, one call at a time.

LocalStack's own provider downloads a Java program, whereas moto already runs in LocalStack's process. But moto is
not thread-safe: two conflicting conditional writes can both succeed, and a scan fails during a concurrent write. So a
lock serializes all calls.
"""

import threading
from collections.abc import Callable

from localstack.aws.api import RequestContext, ServiceRequest
from localstack.aws.api.dynamodb import DynamodbApi
from localstack.aws.skeleton import DispatchTable
from localstack.services.moto import MotoFallbackDispatcher
from localstack.services.plugins import Service, aws_provider

from localstack_lambda_executor.partitions import read_partitions_only

LOCK = threading.RLock()


type Handler = Callable[[RequestContext, ServiceRequest], object]


def one_at_a_time(provider: object) -> DispatchTable:
    def locked(handler: Handler) -> Handler:
        def call(context: RequestContext, request: ServiceRequest) -> object:
            with LOCK:
                return handler(context, request)

        return call

    return {operation: locked(handler) for operation, handler in MotoFallbackDispatcher(provider).items()}


class MotoDynamodb(DynamodbApi):
    """A DynamoDB provider that implements no operation itself, so that moto handles every call."""


@aws_provider(api="dynamodb", name="moto")
def moto_provider() -> Service:
    read_partitions_only()
    return Service.for_provider(MotoDynamodb(), dispatch_table_factory=one_at_a_time)
