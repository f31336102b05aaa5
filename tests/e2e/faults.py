"""Make one AWS service fail temporarily for one function.

The fault suite's proxy runs in front of LocalStack, and the function's environment points to the proxy.
Killing LocalStack or its Kinesis mock instead would lose acknowledged data, and AWS never loses such data.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from tests.e2e.pipeline import Pipeline
from tests.faults.fault_proxy import Fault, Proxy, Rule


class FaultProxy:
    """A proxy that applies `fault` to every request, or passes all requests on unchanged if `fault` is None.

    `seen` counts the requests to which a fault was applied.
    """

    def __init__(self, target: str) -> None:
        self._proxy = Proxy(target)
        self._holding = ExitStack()
        self._rules: list[Rule] = []
        self._fault: Fault | None = None

    @property
    def url(self) -> str:
        return self._proxy.url

    @property
    def seen(self) -> int:
        return sum(rule.applied for rule in self._rules)

    @property
    def fault(self) -> Fault | None:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        self._holding.close()
        self._fault = fault
        if fault:
            self._rules.append(Rule(fault))
            self._holding.enter_context(self._proxy.rules(self._rules[-1]))

    @contextmanager
    def running(self) -> Iterator["FaultProxy"]:
        with self._proxy:
            yield self


@contextmanager
def environment_of(pipeline: Pipeline, function: str, changes: Mapping[str, str]) -> Iterator[None]:
    """Inside the `with` block, run the function with `changes` added to its environment variables."""
    functions = pipeline.aws("lambda")
    name = f"milkrun-local-{function}"
    before = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]

    def set_to(variables: Mapping[str, str]) -> None:
        functions.update_function_configuration(FunctionName=name, Environment={"Variables": dict(variables)})
        waiter = functions.get_waiter("function_updated_v2")
        waiter.wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})

    set_to(before | changes)
    try:
        yield
    finally:
        set_to(before)
