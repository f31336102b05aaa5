"""Storage and notification integrations.

Sources: Snowflake's pages "CREATE STORAGE INTEGRATION" and "CREATE NOTIFICATION INTEGRATION" (outbound, Amazon SNS).
"""

from local_snowflake.authorize import Authority
from local_snowflake.catalog import Catalog, new_id
from local_snowflake.catalog_objects import Integration, Stage
from local_snowflake.errors import compilation, exists, missing, unsupported
from local_snowflake.results import SUCCEEDED, TEXT, TIME, Handlers, Result, status
from local_snowflake.show_clauses import PROPERTIES, alike, property_of, take_filter
from local_snowflake.sql import Options, Scope, Words, actor_of, flag_of

USER_ARN = "arn:aws:iam::000000000000:user/snowflake"


class Integrations:
    def __init__(self, catalog: Catalog, authority: Authority) -> None:
        self.catalog = catalog
        self.authority = authority
        self.handlers: Handlers = {
            ("CREATE", "STORAGE", "INTEGRATION"): self.create_integration,
            ("CREATE", "NOTIFICATION", "INTEGRATION"): self.create_integration,
            **{
                (verb, *category, noun): handler
                for category in ((), ("STORAGE",), ("NOTIFICATION",))
                for verb, noun, handler in (
                    ("ALTER", "INTEGRATION", self.alter_integration),
                    ("DROP", "INTEGRATION", self.drop_integration),
                    ("DESC", "INTEGRATION", self.desc_integration),
                    ("SHOW", "INTEGRATIONS", self.show_integrations),
                )
            },
        }

    def create_integration(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("CREATE")
        replaces = words.takes("OR", "REPLACE")
        category = take_category(words)
        words.take("INTEGRATION")
        unless_exists = words.takes("IF", "NOT", "EXISTS")
        name = words.take_identifier()
        options = words.take_options()
        words.finish()
        check_options(category, options)
        if self.catalog.find_integration(name) and not replaces:
            if unless_exists:
                return status(f"{name} already exists, statement succeeded.")
            raise exists(name)
        integration_id = new_id()
        # A specified external id is kept. Otherwise, each creation makes a new id, breaking the role's trust policy.
        external_id = f"{self.catalog.account}_SFCRole=2_{integration_id[:12]}="
        self.catalog.put_integration(
            Integration(
                integration_id,
                name,
                {EXTERNAL_ID[category]: external_id, **options},
                self.catalog.clock(),
            )
        )
        return status(f"Integration {name} successfully created.")

    def alter_integration(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("ALTER")
        take_category(words)
        words.take("INTEGRATION")
        if_exists = words.takes("IF", "EXISTS")
        name = words.take_identifier()
        words.take("SET")
        options = words.take_options()
        words.finish()
        found = self.catalog.find_integration(name)
        if found is None:
            if if_exists:
                return SUCCEEDED
            raise missing("Integration", name)
        changed = {**found.options, **options}
        check_options(category_of(found), changed)
        self.catalog.put_integration(found._replace(options=changed))
        return SUCCEEDED

    def drop_integration(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("DROP")
        take_category(words)
        words.take("INTEGRATION")
        if_exists = words.takes("IF", "EXISTS")
        name = words.take_identifier()
        words.finish()
        if self.catalog.find_integration(name):
            self.catalog.drop_integration(name)
        elif not if_exists:
            raise missing("Integration", name)
        return status(f"{name} successfully dropped.")

    def desc_integration(self, words: Words, scope: Scope) -> Result:
        del scope
        words.at = 1
        take_category(words)
        words.take("INTEGRATION")
        integration = self.catalog.integration(words.take_identifier())
        words.finish()
        if category_of(integration) == "NOTIFICATION":
            return Result(PROPERTIES, notification_properties(integration))
        options = {
            "ENABLED": True,
            "STORAGE_PROVIDER": "S3",
            "STORAGE_ALLOWED_LOCATIONS": (),
            "STORAGE_BLOCKED_LOCATIONS": (),
            "STORAGE_AWS_IAM_USER_ARN": USER_ARN,
            "STORAGE_AWS_EXTERNAL_ID": None,
            "COMMENT": "",
            **integration.options,
        }
        rows = [(key, *property_of(value)) for key, value in options.items() if key != "TYPE"]
        return Result(PROPERTIES, rows)

    def show_integrations(self, words: Words, scope: Scope) -> Result:
        words.take("SHOW")
        category = take_category(words)
        words.take("INTEGRATIONS")
        like, _ = take_filter(words, scope)
        rows = [
            (
                found.name,
                str(found.options["TYPE"]),
                category_of(found),
                str(found.options["ENABLED"]).lower(),
                found.options.get("COMMENT"),
                found.created_on,
            )
            for found in self.catalog.integrations()
            if alike(found.name, like)
            and category in ("", category_of(found))
            and self.authority.sees(actor_of(scope), "INTEGRATION", found.name)
        ]
        columns = dict.fromkeys(("name", "type", "category", "enabled", "comment"), TEXT)
        return Result({**columns, "created_on": TIME}, rows)


EXTERNAL_ID = {"STORAGE": "STORAGE_AWS_EXTERNAL_ID", "NOTIFICATION": "SF_AWS_EXTERNAL_ID"}
REQUIRED = {
    "STORAGE": (
        "TYPE",
        "STORAGE_PROVIDER",
        "STORAGE_AWS_ROLE_ARN",
        "ENABLED",
        "STORAGE_ALLOWED_LOCATIONS",
    ),
    "NOTIFICATION": (
        "TYPE",
        "DIRECTION",
        "NOTIFICATION_PROVIDER",
        "ENABLED",
        "AWS_SNS_TOPIC_ARN",
        "AWS_SNS_ROLE_ARN",
    ),
}
OPTIONAL = {
    "STORAGE": {"STORAGE_BLOCKED_LOCATIONS", "STORAGE_AWS_EXTERNAL_ID", "COMMENT"},
    "NOTIFICATION": {"SF_AWS_EXTERNAL_ID", "COMMENT"},
}
LISTS = ("STORAGE_ALLOWED_LOCATIONS", "STORAGE_BLOCKED_LOCATIONS")
SUPPORTED = {
    "STORAGE": {"TYPE": "EXTERNAL_STAGE", "STORAGE_PROVIDER": "S3"},
    "NOTIFICATION": {"TYPE": "QUEUE", "DIRECTION": "OUTBOUND", "NOTIFICATION_PROVIDER": "AWS_SNS"},
}


def take_category(words: Words) -> str:
    return next((category for category in REQUIRED if words.takes(category)), "")


def category_of(integration: Integration) -> str:
    return "NOTIFICATION" if "AWS_SNS_TOPIC_ARN" in integration.options else "STORAGE"


def check_options(category: str, options: Options) -> None:
    for required in REQUIRED[category]:
        if required not in options:
            raise compilation(f"missing property '{required}' for 'INTEGRATION'", "001007", "42601")
    for option in options:
        if option not in OPTIONAL[category] and option not in REQUIRED[category]:
            raise compilation(f"invalid property '{option}' for 'INTEGRATION'", "001006", "42601")
    flag_of(options, "ENABLED")
    for option in LISTS:
        if not isinstance(options.get(option, ()), tuple | list):
            raise compilation(
                f"invalid value [{options[option]}] for parameter '{option}'", "001008", "42601"
            )
    for option, supported in SUPPORTED[category].items():
        if str(options[option]).upper() != supported:
            raise unsupported(f"{option} = {options[option]}; only {supported} is supported")


def notification_properties(integration: Integration) -> list[tuple[str, ...]]:
    shown = ("ENABLED", "DIRECTION", "AWS_SNS_TOPIC_ARN", "AWS_SNS_ROLE_ARN", "SF_AWS_EXTERNAL_ID", "COMMENT")
    options = {"SF_AWS_IAM_USER_ARN": USER_ARN, **{name: integration.options.get(name, "") for name in shown}}
    return [(key, *property_of(value)) for key, value in options.items()]


def unavailable(catalog: Catalog, stage: Stage) -> str | None:
    """Return the reason why a stage's files cannot be accessed through its integration. Return None if they can, or
    if the stage has no integration.
    """
    if not stage.integration:
        return None
    found = catalog.find_integration(stage.integration)
    if found is None or found.integration_id != stage.integration_id:
        return f"Integration '{stage.integration}' of stage '{stage.name}' was dropped or recreated."
    if not flag_of(found.options, "ENABLED"):
        return f"Integration '{stage.integration}' of stage '{stage.name}' is disabled."
    return None


def check_is_notification(catalog: Catalog, name: str) -> None:
    """Raise an error unless a pipe's ERROR_INTEGRATION is an outbound notification integration."""
    if category_of(catalog.integration(name)) != "NOTIFICATION":
        raise compilation(f"Integration '{name}' is not a notification integration.", "001008", "42601")
