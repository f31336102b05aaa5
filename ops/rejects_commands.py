"""The subcommands of `milkrun rejects`: list, show, send and purge."""

from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from cli.counts import count
from ops import terminal
from ops.edit_events import Patch
from ops.reachable_stores import require
from ops.read_stores import geofence_kinds
from ops.rejects import Box, Reject, Repaired, Selection, Sent, groups, poster, repaired, send, try_out
from ops.stage_outputs import Outputs

app = terminal.group()

MAX_SHOWN = 4000  # characters of an event

Code = Annotated[str, typer.Option(metavar="CODE", help="Select only events with this reason code.")]
AppVersion = Annotated[str, typer.Option(metavar="VERSION", help="Select only events from this app version.")]
Device = Annotated[str | None, terminal.text_option("DEVICE", "Select only events from this device.")]
Repaired_ = Annotated[
    bool, typer.Option("--resent", help="Include events that have already been repaired and accepted.")
]


def _found(context: typer.Context, stage: str, selection: Selection) -> tuple[Outputs, Box, Iterator[Reject]]:
    terminal.check_range(selection.start, selection.end)
    outputs = terminal.outputs_of(context, stage)
    require(outputs, "S3")
    box = Box(outputs.aws("s3"), outputs.bucket)
    return outputs, box, terminal.counted(box.find(selection), "rejects")


def _name_unreadable(box: Box) -> None:
    for key in box.unreadable:
        terminal.fail(f"{key} is damaged and was skipped")


@app.callback()
def rejects() -> None:
    """List, show, repair or delete rejected events.

    Without a subcommand, `list` runs.
    """


@app.command("list")
def list_rejects(
    context: typer.Context,
    *,
    by: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Group by reason and by these fields, separated by commas: app_version, device, hour.",
        ),
    ] = "app_version",
    start: terminal.From = terminal.A_DAY_AGO,
    end: terminal.To = terminal.NOW,
    code: Code = "",
    app_version: AppVersion = "",
    device: Device = None,
    resent: Repaired_ = False,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
    wide: terminal.Wide = False,
) -> None:
    """List the rejected events, grouped by reason and by app version, device or hour.

    Exit code 1: the list is not empty, or an object could not be read.
    """
    names = [name for name in by.replace(" ", "").split(",") if name]
    if unknown := set(names) - {"app_version", "device", "hour"}:
        raise typer.BadParameter(f"--by cannot be {min(unknown)}: choose from app_version, device and hour")
    _, box, found = _found(context, stage, Selection(start, end, code, app_version, device or "", resent))
    rows = groups(found, names)
    _name_unreadable(box)
    terminal.show_rows(rows, as_json, title="Rejected events", wide=wide, empty="no rejected events")
    if rows or box.unreadable:
        raise typer.Exit(1)


@app.command()
def show(
    context: typer.Context,
    *,
    number: Annotated[int, typer.Option("--number", min=1, max=1000, help="Number of events to show.")] = 3,
    start: terminal.From = terminal.A_DAY_AGO,
    end: terminal.To = terminal.NOW,
    code: Code = "",
    app_version: AppVersion = "",
    device: Device = None,
    resent: Repaired_ = False,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
) -> None:
    """Show some rejected events, each with its reason and its text as it was sent.

    Exit code 1: an object could not be read.
    """
    _, box, found = _found(context, stage, Selection(start, end, code, app_version, device or "", resent))
    examples = [each for _, each in zip(range(number), found, strict=False)]
    _name_unreadable(box)
    if as_json:
        terminal.print_json(
            [
                {"place": e.place, "code": e.code, "field": e.field, "message": e.message, "text": e.text}
                for e in examples
            ]
        )
    elif not examples and not box.unreadable:
        terminal.out.print("no rejected events")
    for each in () if as_json else examples:
        version = f", app {each.app_version}" if each.app_version else ""
        terminal.out.print(f"{each.code} {each.field}: {each.message}{version}", style="bold", markup=False)
        terminal.out.print(each.place, markup=False)
        text = each.text if each.event is None else msgspec.json.format(each.text, indent=2)
        terminal.out.print(text[:MAX_SHOWN], markup=False)
        if len(text) > MAX_SHOWN:
            terminal.note(f"truncated: {count(len(text) - MAX_SHOWN, 'more character')} (use --json)")
    if box.unreadable:
        raise typer.Exit(1)


@app.command("send")
def send_command(
    context: typer.Context,
    *,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Set a field to a JSON value, a string or, with @sha256, an id derived from the event's text.",
        ),
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option("--rename", metavar="OLD=NEW", help="Rename the field OLD to NEW.")
    ] = None,
    delete: Annotated[
        list[str] | None, typer.Option("--delete", metavar="PATH", help="Delete this field from each event.")
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="PATH=OLD:NEW,…", help="In the field PATH, replace the value OLD with NEW."
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Send nothing; show examples and the number of events that would be accepted."
        ),
    ] = False,
    start: terminal.From = terminal.A_DAY_AGO,
    end: terminal.To = terminal.NOW,
    code: Code = "",
    app_version: AppVersion = "",
    device: Device = None,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
) -> None:
    """Repair rejected events with a patch, and send them to the API again.

    The field milkrun_resent of a repaired event names the object and line that it repairs. If the command is
    repeated, it sends only events that have not been accepted yet. Exit code 1: some events could not be read
    or repaired, were not changed by the patch, or were rejected again.
    """
    patch = Patch.of(set_ or (), rename or (), delete or (), map_ or ())
    outputs, box, found = _found(context, stage, Selection(start, end, code, app_version, device or ""))
    sent = Sent()
    events = repaired(found, patch, sent)
    if dry_run:
        kept: list[Repaired] = []

        def noting() -> Iterator[Repaired]:
            for each in events:
                if len(kept) < 3:
                    kept.append(each)
                yield each

        try_out(noting(), geofence_kinds(outputs, stage), sent)
        if not as_json:
            for each in kept:
                terminal.out.print(each.diff(), markup=False)
    else:
        with terminal.progress() as bars:
            task = bars.add_task("sent", total=None)
            for number in send(poster(outputs), box, events, sent):
                bars.advance(task, number)
    _name_unreadable(box)
    facts = {
        "found": sent.found,
        "would_be_accepted" if dry_run else "accepted": sent.accepted,
        "still_rejected": dict(sent.rejected),
        "not_changed_by_the_patch": sent.unchanged,
        "no_json_object": sent.no_json,
    }
    terminal.show(facts, as_json)
    if sent.rejected or sent.unchanged or sent.no_json or box.unreadable:
        raise typer.Exit(1)


@app.command()
def purge(
    context: typer.Context,
    *,
    yes: terminal.Yes = False,
    start: terminal.From = terminal.A_DAY_AGO,
    end: terminal.To = terminal.NOW,
    code: Code = "",
    app_version: AppVersion = "",
    device: Device = None,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
) -> None:
    """After confirmation, delete the objects in which every event matches the filters. Their rows in RAW are kept.

    Events that were repaired and accepted count as selected. Exit code 1: an object was not deleted, because
    it also contains other events or is damaged.
    """
    _, box, found = _found(
        context, stage, Selection(start, end, code, app_version, device or "", resent=True)
    )
    rejects = list(found)
    if rejects and not yes:
        typer.confirm(
            f"{count(len(rejects), 'rejected event')} selected. Delete the objects that contain nothing else?",
            abort=True,
            err=True,
        )
    deleted, shared = box.purge(rejects)
    _name_unreadable(box)
    terminal.show({"objects_deleted": deleted, "kept_for_other_rejects": shared}, as_json)
    if shared or box.unreadable:
        raise typer.Exit(1)
