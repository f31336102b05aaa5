"""Set up the warehouse of a new stage, in the order that Snowflake and AWS require.

Snowflake chooses two IAM users, which may be the same, and both need permissions in AWS. The first user
assumes our role to read the bucket. This user is known once the storage integration exists, and the role must trust
it (`trust-policy` prints the policy) before Snowflake can read the bucket. The second user subscribes
Snowflake's queue to the topic. The topic's policy must allow that (`sns-policy` prints the policy) before
CREATE PIPE can subscribe. If a permission is missing, the run stops and prints the settings to change in
serverless/stage_settings.yml; the next run continues from there. `write` changes an emulated AWS directly. In a
deployed stage, CloudFormation owns the role and the topic's policy, and its next deployment would undo such a
change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cli.counts import count
from cli.refusal import Refusal
from snowpipe import apply as applying
from snowpipe import aws_policies
from snowpipe.aws_policies import Role, Topic
from snowpipe.ddl_files import Definition, Parameters
from snowpipe.pipes import pipes, status
from snowpipe.warehouse import Row, Warehouse


@dataclass
class Bootstrap:
    warehouse: Warehouse
    ddl: Sequence[Definition]
    parameters: Parameters
    role: Role
    topic: Topic
    write: bool
    announce: Callable[[str], None]

    def run(self) -> list[Row]:
        """Set up the warehouse and return a row per step.

        Raises Refusal (exit code 1) if a pipe's COPY statement or the URL of a Snowflake stage differs from the DDL, if
        a permission must first be granted in AWS, or if a pipe does not run afterwards.
        """
        before = [d for d in self.ddl if d.number < "14"]
        done = [("objects that need no AWS resource", f"{count(len(before), 'DDL file')}")]
        self.announce("Create the objects up to the storage integration.")
        applying.refuse_another_bucket(self.warehouse, self.ddl)
        applying.refuse_changed_pipes(self.warehouse, self.ddl)
        applying.run(self.warehouse, before)
        applying.bring_up_to_date(self.warehouse, before)
        self.announce("Check that the storage role trusts Snowflake's user.")
        done.append(("trust policy of the storage role", self.trust()))
        self.announce("Check that Snowflake's user may subscribe to the topic.")
        done.append(("policy of the topic", self.subscription()))
        rest = [d for d in self.ddl if d not in before]
        self.announce("Create the stages, pipes, views and grants.")
        applying.run(self.warehouse, rest)
        applying.bring_up_to_date(self.warehouse, self.ddl)
        done.append(("stages, pipes, views, grants", f"{count(len(rest), 'DDL file')}"))
        for pipe in pipes(self.parameters.database):
            state = status(self.warehouse, pipe).state
            done.append((pipe.name, state))
            if state != "RUNNING":
                raise Refusal(f"pipe {pipe.name} is {state}, not RUNNING; see: milkrun warehouse status", 1)
        return [{"step": step, "result": result} for step, result in done]

    def trust(self) -> str:
        wanted = aws_policies.trust_policy(self.warehouse, self.parameters)
        found = self.role.trust()
        if found is not None and aws_policies.trusts(found, wanted):
            return f"{self.role.name} trusts Snowflake's user"
        if self.write:
            self.role.write(wanted, aws_policies.access_policy(self.parameters))
            return f"{self.role.name} written"
        (statement,) = wanted["Statement"]
        lack = "does not exist" if found is None else "does not trust Snowflake's user with this external id"
        raise Refusal(
            f"The role {self.role.name} {lack}. In serverless/stage_settings.yml set snowflakeUserArn: "
            f"{aws_policies.principal_of(statement)} and snowflakeExternalId: "
            f"{statement['Condition']['StringEquals']['sts:ExternalId']}, deploy the stage, and run bootstrap "
            "again. (If AWS is emulated, run bootstrap --write instead.)",
            1,
        )

    def subscription(self) -> str:
        found = self.topic.policy()
        statement = aws_policies.subscription(self.warehouse, self.parameters)
        wanted = aws_policies.with_statement(found, statement)
        if wanted is found:
            return "allows Snowflake to subscribe"
        if self.write:
            self.topic.write(wanted)
            return "written"
        raise Refusal(
            (
                f"The policy of {self.parameters.topic_arn} does not allow Snowflake to subscribe. In "
                f"serverless/stage_settings.yml set snowflakeSnsUserArn: {aws_policies.principal_of(statement)}, "
                "deploy the stage, and run bootstrap again. (If AWS is emulated, run bootstrap --write instead.)"
            ),
            1,
        )
