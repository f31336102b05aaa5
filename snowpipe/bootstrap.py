"""Everything for a new stage's warehouse, in the right order.

Two facts go round trip. Snowflake tells, only once the integration exists, which IAM user of its own will
come (`trust-policy`): our role must trust it before a stage can be read. And it tells which user will
subscribe its queue (`sns-policy`): our topic must allow that before CREATE PIPE can subscribe. Each is
compared with what AWS has; with `write` it is put right, else the run stops there and says what to do.
Run again, it goes on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from snowpipe import apply as applying
from snowpipe import policies
from snowpipe.pipes import pipes, status
from snowpipe.policies import Role, Topic
from snowpipe.refusal import Refusal
from snowpipe.template import Definition, Parameters
from snowpipe.warehouse import Row, Warehouse


@dataclass
class Bootstrap:
    warehouse: Warehouse
    ddl: Sequence[Definition]
    parameters: Parameters
    role: Role
    topic: Topic
    write: bool
    told: Callable[[str], None]

    def run(self) -> list[Row]:
        """A row per step. Refusal (1) where AWS has to be put right first."""
        before = [d for d in self.ddl if d.number < "14"]
        done = [("objects that need nothing of AWS", f"{len(before)} file(s) of DDL")]
        self.told("making the objects up to the storage integration")
        applying.refuse_changed_pipes(self.warehouse, self.ddl)
        applying.run(self.warehouse, before)
        self.told("checking whom the storage role trusts")
        done.append(("trust of the storage role", self.trust()))
        self.told("checking who may subscribe to the topic")
        done.append(("policy of the topic", self.subscription()))
        rest = [d for d in self.ddl if d not in before]
        self.told("making stages, pipes and grants")
        applying.run(self.warehouse, rest)
        done.append(("stages, pipes, views, grants", f"{len(rest)} file(s) of DDL"))
        for pipe in pipes(self.parameters.database):
            state = status(self.warehouse, pipe).state
            done.append((pipe.name, state))
            if state != "RUNNING":
                raise Refusal(f"{pipe.name} is {state}: see status", 1)
        return [{"step": step, "result": result} for step, result in done]

    def trust(self) -> str:
        wanted = policies.trust_policy(self.warehouse, self.parameters)
        found = self.role.trust()
        if found is not None and policies.grants(found) >= policies.grants(wanted):
            return f"{self.role.name} trusts Snowflake's user"
        if not self.write:
            lack = "is not there" if found is None else "does not trust Snowflake's user with our external id"
            raise Refusal(
                f"the role {self.role.name} {lack}: run again with --write, or make it with the output of "
                "`trust-policy` and `trust-policy --access`, and run again",
                1,
            )
        self.role.write(wanted, policies.access_policy(self.parameters))
        return f"{self.role.name} written"

    def subscription(self) -> str:
        found = self.topic.policy()
        wanted = policies.with_statements(found, policies.subscription(self.warehouse, self.parameters))
        if wanted is found:
            return "lets Snowflake subscribe"
        if not self.write:
            raise Refusal(
                f"the policy of {self.parameters.topic_arn} does not let Snowflake subscribe: run again with "
                "--write, or put the output of `sns-policy` there, and run again",
                1,
            )
        self.topic.write(wanted)
        return "written"
