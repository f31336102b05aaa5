"""Stages and file formats, including the features that fakesnow lacks: integrations, the file formats of
stages, DROP and LIST. Sources: Snowflake's pages "CREATE STAGE", "ALTER STAGE", "CREATE FILE FORMAT", "LIST".
"""

import json
from dataclasses import replace

from local_snowflake.authorize import Authority
from local_snowflake.catalog import FILE_FORMATS, Catalog, new_id
from local_snowflake.catalog_objects import Integration, Stage
from local_snowflake.errors import compilation, exists, missing, stage_failure, unsupported
from local_snowflake.integrations import category_of, unavailable
from local_snowflake.loader import Loader
from local_snowflake.parse_copy import FileFormat
from local_snowflake.plans import bucket_and_prefix, path_prefix
from local_snowflake.results import NUMBER, SUCCEEDED, TEXT, TIME, Handlers, Result, status
from local_snowflake.show_clauses import PROPERTIES, alike, inside, property_of, take_describe, take_filter
from local_snowflake.sql import Name, Options, Scope, Value, Words, actor_of, flag_of, stage_parts, text_of

INTERNAL_STAGE_OPTIONS = {"ENCRYPTION", "FILE_FORMAT", "COMMENT", "DIRECTORY"}
STAGE_OPTIONS = {"URL", "STORAGE_INTEGRATION", "FILE_FORMAT", "COMMENT", "DIRECTORY"}


class Stages:
    def __init__(self, catalog: Catalog, loader: Loader, authority: Authority) -> None:
        self.catalog = catalog
        self.authority = authority
        self.loader = loader
        self.handlers: Handlers = {
            ("CREATE", "STAGE"): self.create_stage,
            ("ALTER", "STAGE"): self.alter_stage,
            ("DROP", "STAGE"): self.drop_stage,
            ("DESC", "STAGE"): self.desc_stage,
            ("LIST", "@"): self.list_stage,
            ("LS", "@"): self.list_stage,
            ("CREATE", "FILE", "FORMAT"): self.create_file_format,
            ("DROP", "FILE", "FORMAT"): self.drop_file_format,
            ("DESC", "FILE", "FORMAT"): self.desc_file_format,
            ("SHOW", "FILE", "FORMATS"): self.show_file_formats,
        }

    def create_stage(self, words: Words, scope: Scope) -> Result | None:
        words.take("CREATE")
        replaces = words.takes("OR", "REPLACE")
        temporary = words.takes("TEMPORARY") or words.takes("TEMP")
        words.take("STAGE")
        unless_exists = words.takes("IF", "NOT", "EXISTS")
        name = scope.resolve(words.take_name())
        options = words.take_options()
        words.finish()
        if self.catalog.find_stage(name) and not replaces:
            if unless_exists:
                return status(f"{name.name} already exists, statement succeeded.")
            raise exists(str(name))
        url = text_of(options, "URL") or ""
        if not url:
            for option in options:
                if option not in INTERNAL_STAGE_OPTIONS:
                    raise compilation(f"invalid property '{option}' for 'STAGE'", "001006", "42601")
            formats = format_of(options.get("FILE_FORMAT"))
            self.catalog.note_stage(Stage(new_id(), name, "", formats, None, None))
            return None
        if temporary:
            raise unsupported("CREATE TEMPORARY STAGE with a URL")
        if not bucket_and_prefix(url)[0] or not url.startswith("s3://"):
            raise unsupported(f"a stage on '{url}'; only URLs such as s3://bucket/path/ are supported")
        for option in options:
            if option not in STAGE_OPTIONS:
                raise unsupported(f"stage option {option}")
        self._may_use_integration(options, scope)
        self.catalog.put_stage(self.stage_of(new_id(), name, url, options), text_of(options, "COMMENT") or "")
        return status(f"Stage area {name.name} successfully created.")

    def _may_use_integration(self, options: Options, scope: Scope) -> None:
        if name := text_of(options, "STORAGE_INTEGRATION"):
            self.authority.require(actor_of(scope), ("USAGE",), "INTEGRATION", name.upper())

    def stage_of(self, stage_id: str, name: Name, url: str, options: Options) -> Stage:
        integration_name = text_of(options, "STORAGE_INTEGRATION")
        integration = self.catalog.integration(integration_name.upper()) if integration_name else None
        if integration:
            if category_of(integration) != "STORAGE":
                raise compilation(f"Integration '{integration.name}' is not a storage integration.", "001008")
            if not flag_of(integration.options, "ENABLED"):
                raise compilation(f"Integration '{integration.name}' is disabled.", "001008")
            check_location(integration, url)
        formats = format_of(options.get("FILE_FORMAT"))
        check_format(self.catalog.file_format(formats, name))
        return Stage(
            stage_id,
            name,
            url,
            formats,
            integration.name if integration else None,
            integration.integration_id if integration else None,
        )

    def drop_stage(self, words: Words, scope: Scope) -> Result:
        words.take("DROP", "STAGE")
        if_exists = words.takes("IF", "EXISTS")
        name = scope.resolve(words.take_name())
        words.finish()
        if self.catalog.find_stage(name):
            self.catalog.drop_stage(name)
        elif not if_exists:
            raise missing("Stage", name)
        return status(f"{name.name} successfully dropped.")

    def desc_stage(self, words: Words, scope: Scope) -> Result:
        take_describe(words, "STAGE")
        stage = self.catalog.stage(scope.resolve(words.take_name()))
        words.finish()
        rows = [("STAGE_FILE_FORMAT", key, *property_of(value)) for key, value in stage.file_format.items()]
        rows.append(("STAGE_LOCATION", "URL", *property_of(json.dumps([stage.url], allow_nan=False))))
        if stage.integration:
            rows.append(("STAGE_INTEGRATION", "STORAGE_INTEGRATION", *property_of(stage.integration)))
        return Result({"parent_property": TEXT, **PROPERTIES}, rows)

    def alter_stage(self, words: Words, scope: Scope) -> Result:
        words.take("ALTER", "STAGE")
        if_exists = words.takes("IF", "EXISTS")
        name = scope.resolve(words.take_name())
        if not words.takes("SET"):
            raise unsupported("ALTER STAGE other than SET")
        options = words.take_options()
        words.finish()
        stage = self.catalog.find_stage(name)
        if stage is None:
            if if_exists:
                return SUCCEEDED
            raise missing("Stage", name)
        if not stage.url:
            raise unsupported("ALTER STAGE of an internal stage")
        for option in options:
            if option not in STAGE_OPTIONS - {"DIRECTORY"}:
                raise unsupported(f"stage option {option}")
        self._may_use_integration(options, scope)
        link = {"STORAGE_INTEGRATION": stage.integration} if "URL" in options and stage.integration else {}
        changed = self.stage_of(
            stage.stage_id,
            name,
            text_of(options, "URL") or stage.url,
            {"FILE_FORMAT": stage.file_format, **link, **options},
        )
        if "STORAGE_INTEGRATION" not in options:  # If the integration was replaced, the stage stays unlinked.
            changed = replace(changed, integration=stage.integration, integration_id=stage.integration_id)
        self.catalog.change_stage(changed, text_of(options, "COMMENT"))
        return SUCCEEDED

    def list_stage(self, words: Words, scope: Scope) -> Result | None:
        words.at = 1
        name, path = stage_parts(words.take_stage(), scope)
        stage = self.catalog.stage(name)
        if not stage.url:
            return None
        if not words.done:
            raise unsupported("LIST with PATTERN")
        if reason := unavailable(self.catalog, stage):
            raise stage_failure(reason)
        bucket, location = bucket_and_prefix(stage.url)
        prefix = path_prefix(location, path)
        rows = [
            (
                f"s3://{bucket}/{thing['Key']}",
                thing["Size"],
                thing["ETag"].strip('"'),
                thing["LastModified"].strftime("%a, %d %b %Y %H:%M:%S GMT"),
            )
            for thing in self.loader.listed(bucket, prefix)
        ]
        return Result({"name": TEXT, "size": NUMBER, "md5": TEXT, "last_modified": TEXT}, rows)

    # ---- file formats, which fakesnow can only create

    def create_file_format(self, words: Words, scope: Scope) -> str | None:
        """Check a file format's options. Rewrite CREATE OR ALTER as CREATE OR REPLACE, which fakesnow supports; the
        format keeps its grants. Return None for any other CREATE FILE FORMAT, which fakesnow runs unchanged.
        """
        words.take("CREATE")
        alters = words.takes("OR", "ALTER")
        while not words.takes("FILE", "FORMAT"):  # OR REPLACE, TEMPORARY
            words.take_identifier()
        rest = words.rest()
        words.takes("IF", "NOT", "EXISTS")
        name = scope.resolve(words.take_name())
        options = words.take_options()
        words.finish()
        check_format(options)
        if not alters:
            return None
        kept = self.catalog.find_file_format(name)
        if kept is not None and options.get("TYPE", "CSV") != kept.get("TYPE", "CSV"):
            raise unsupported("CREATE OR ALTER FILE FORMAT with another TYPE; Snowflake refuses it too")
        return f"CREATE OR REPLACE FILE FORMAT {rest}"

    def drop_file_format(self, words: Words, scope: Scope) -> Result:
        words.take("DROP", "FILE", "FORMAT")
        if_exists = words.takes("IF", "EXISTS")
        name = scope.resolve(words.take_name())
        words.finish()
        if self.catalog.find_file_format(name) is not None:
            self.catalog.rows(
                f"DELETE FROM {FILE_FORMATS} WHERE database_name = ? AND schema_name = ? AND name = ?", name
            )
            self.catalog.changed()
        elif not if_exists:
            raise missing("File format", name)
        return status(f"{name.name} successfully dropped.")

    def desc_file_format(self, words: Words, scope: Scope) -> Result:
        words.at = 1
        words.take("FILE", "FORMAT")
        name = scope.resolve(words.take_name())
        words.finish()
        options = self.catalog.find_file_format(name)
        if options is None:
            raise missing("File format", name)
        return Result(PROPERTIES, [(key, *property_of(value)) for key, value in options.items()])

    def show_file_formats(self, words: Words, scope: Scope) -> Result:
        words.take("SHOW", "FILE", "FORMATS")
        like, within = take_filter(words, scope)
        rows = [
            row
            for row in self.catalog.rows(
                f"""SELECT created_on, name, database_name, schema_name, type, comment, options
                    FROM {FILE_FORMATS} ORDER BY ALL"""
            )
            if alike(row[1], like)
            and inside(Name(row[2], row[3], row[1]), within)
            and self.authority.sees(actor_of(scope), "FILE FORMAT", str(Name(row[2], row[3], row[1])))
        ]
        columns = dict.fromkeys(
            ("name", "database_name", "schema_name", "type", "comment", "format_options"), TEXT
        )
        return Result({"created_on": TIME, **columns}, rows)


def check_format(options: Options) -> None:
    """Raise an error if the options of a JSON file format are invalid or not supported."""
    if str(options.get("TYPE", "CSV")).upper() == "JSON":
        FileFormat.of(options)


def format_of(value: Value | None) -> Options:
    if value is None:
        return {}
    if isinstance(value, str):
        return {"FORMAT_NAME": value}
    if not isinstance(value, dict):
        raise compilation(f"invalid value [{value}] for parameter 'FILE_FORMAT'", "001008", "42601")
    return value


def check_location(integration: Integration, url: str) -> None:
    allowed = integration.options["STORAGE_ALLOWED_LOCATIONS"]
    blocked = integration.options.get("STORAGE_BLOCKED_LOCATIONS", ())
    if not any(place == "*" or url.startswith(place) for place in allowed) or any(
        url.startswith(place) for place in blocked
    ):
        raise compilation(
            f"Location '{url}' is not allowed by integration '{integration.name}'. "
            "Please use DESC INTEGRATION to check out allowed and blocked locations.",
            "003134",
            "42601",
        )
