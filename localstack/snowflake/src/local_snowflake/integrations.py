"""Storage integrations. Source: Snowflake's page "CREATE STORAGE INTEGRATION"."""

from local_snowflake.authorize import Authority
from local_snowflake.catalog import Catalog, Integration, new_id
from local_snowflake.errors import compilation, exists, missing, unsupported
from local_snowflake.results import SUCCEEDED, TEXT, TIME, Handlers, Result, status
from local_snowflake.show import PROPERTIES, alike, property_of, take_filter
from local_snowflake.sql import Scope, Words, actor_of

USER_ARN = "arn:aws:iam::000000000000:user/snowflake"


class Integrations:
    def __init__(self, catalog: Catalog, authority: Authority) -> None:
        self.catalog = catalog
        self.authority = authority
        self.handlers: Handlers = {
            ("CREATE", "STORAGE", "INTEGRATION"): self.create_integration,
            ("ALTER", "STORAGE", "INTEGRATION"): self.alter_integration,
            ("ALTER", "INTEGRATION"): self.alter_integration,
            ("DROP", "STORAGE", "INTEGRATION"): self.drop_integration,
            ("DROP", "INTEGRATION"): self.drop_integration,
            ("DESC", "STORAGE", "INTEGRATION"): self.desc_integration,
            ("DESC", "INTEGRATION"): self.desc_integration,
            ("SHOW", "STORAGE", "INTEGRATIONS"): self.show_integrations,
            ("SHOW", "INTEGRATIONS"): self.show_integrations,
        }

    def create_integration(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("CREATE")
        replaces = words.takes("OR", "REPLACE")
        words.take("STORAGE", "INTEGRATION")
        unless_exists = words.takes("IF", "NOT", "EXISTS")
        name = words.take_identifier()
        options = words.take_options()
        words.finish()
        for required in ("TYPE", "STORAGE_PROVIDER", "ENABLED", "STORAGE_ALLOWED_LOCATIONS"):
            if required not in options:
                raise compilation(f"missing property '{required}' for 'INTEGRATION'", "001007", "42601")
        if str(options["STORAGE_PROVIDER"]).upper() != "S3":
            raise unsupported(f"STORAGE_PROVIDER = {options['STORAGE_PROVIDER']}; S3 is")
        if self.catalog.find_integration(name) and not replaces:
            if unless_exists:
                return status(f"{name} already exists, statement succeeded.")
            raise exists(name)
        integration_id = new_id()
        # An own external id stays; without one each creation makes a new one, and the role's trust is broken.
        external_id = f"{self.catalog.account}_SFCRole=2_{integration_id[:12]}="
        self.catalog.put_integration(
            Integration(
                integration_id,
                name,
                {"STORAGE_AWS_EXTERNAL_ID": external_id, **options},
                self.catalog.clock(),
            )
        )
        return status(f"Integration {name} successfully created.")

    def alter_integration(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("ALTER")
        words.takes("STORAGE")
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
        self.catalog.put_integration(found._replace(options={**found.options, **options}))
        return SUCCEEDED

    def drop_integration(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("DROP")
        words.takes("STORAGE")
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
        words.takes("STORAGE")
        words.take("INTEGRATION")
        integration = self.catalog.integration(words.take_identifier())
        words.finish()
        options = {
            "ENABLED": True,
            "STORAGE_PROVIDER": "S3",
            "STORAGE_ALLOWED_LOCATIONS": (),
            "STORAGE_BLOCKED_LOCATIONS": (),
            "STORAGE_AWS_IAM_USER_ARN": USER_ARN,
            "STORAGE_AWS_ROLE_ARN": None,
            "STORAGE_AWS_EXTERNAL_ID": None,
            "COMMENT": "",
            **integration.options,
        }
        rows = [(key, *property_of(value)) for key, value in options.items() if key != "TYPE"]
        return Result(PROPERTIES, rows)

    def show_integrations(self, words: Words, scope: Scope) -> Result:
        words.take("SHOW")
        words.takes("STORAGE")
        words.take("INTEGRATIONS")
        like, _ = take_filter(words, scope)
        rows = [
            (
                found.name,
                str(found.options["TYPE"]),
                "STORAGE",
                str(found.options["ENABLED"]).lower(),
                found.options.get("COMMENT"),
                found.created_on,
            )
            for found in self.catalog.integrations()
            if alike(found.name, like) and self.authority.sees(actor_of(scope), "INTEGRATION", found.name)
        ]
        columns = dict.fromkeys(("name", "type", "category", "enabled", "comment"), TEXT)
        return Result({**columns, "created_on": TIME}, rows)
