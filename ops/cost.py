"""`milkrun cost`: the monthly cost of a load by component, compared with other settings and services."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated

import typer

from cli.counts import count
from ops import terminal
from ops.monthly_bill import (
    SECONDS_A_DAY,
    SMALL,
    Changes,
    Line,
    Load,
    Prices,
    Way,
    bill,
    total,
    warehouse,
    with_warehouse,
)

WAYS: Mapping[Way, str] = {
    "rest": "REST API (as deployed)",
    "http": "HTTP API instead: no API keys, no usage plans, no throttling per key",
    "url": "function URL instead: no gateway, so keys and throttling need our own code",
    "firehose": "REST API, with Firehose instead of our S3 objects: the receipt is sent before the event is stored",
}

SIZES: Mapping[str, Load] = {
    "small": Load(1_000_000, 20, **SMALL),
    "medium": Load(1000 * SECONDS_A_DAY, 100, provisioned=True),
    "large": Load(100_000 * SECONDS_A_DAY, 100, provisioned=True),
}
SETTINGS: tuple[tuple[str, Changes], ...] = (
    ("streamMode: PROVISIONED", {"provisioned": True}),
    ("streamMode: ON_DEMAND", {"provisioned": False}),
    ("streamRetentionHours: 24", {"stream_retention_hours": 24}),
    ("metrics: alarms", {"metrics": "alarms"}),
    ("dashboard: false", {"dashboard": False}),
    ("tracing: false", {"tracing": False}),
    ("checkLoads: false", {"check_loads": False}),
    ("freshnessMinutes: 1440", {"freshness_minutes": 24 * 60}),
    ("notifications: none", {"notifications": False}),
    ("100 events per request", {"batch": 100}),
)


def recommended(load: Load, prices: Prices) -> list[dict[str, object]]:
    """Return the changes to a setting, or to the number of events per request, that would each save at least 1 % of
    the monthly cost, largest saving first. The cost includes dbt's warehouse.
    """
    ours = with_warehouse(load, prices)
    savings = [
        (ours - with_warehouse(replace(load, **changes), prices), setting)
        for setting, changes in SETTINGS
        if load.batch < changes.get("batch", math.inf)
    ]
    return [
        {"setting": setting, "saves_usd_a_month": round(saved, 2), "share": f"{saved / ours:.0%}"}
        for saved, setting in sorted(savings, key=lambda each: -each[0])
        if saved >= ours / 100
    ]


def sizes(prices: Prices) -> list[dict[str, object]]:
    """Return one row per load in SIZES, with the monthly cost of the load."""
    return [
        {
            "size": name,
            "events_a_day": load.events_per_day,
            "events_a_request": load.batch,
            "usd_a_month": round(total(load, prices), 2),
            "usd_a_million_events": round(total(load, prices) / load.events * 1e6, 4),
            "dbt_usd_a_month_computed": round(with_warehouse(load, prices) - total(load, prices), 2),
        }
        for name, load in SIZES.items()
    ]


def by_component(lines: Iterator[Line], load: Load) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for line in lines:
        if line.usd < 0.005 and line.component in {row["component"] for row in rows}:
            continue
        rows.append(
            {
                "component": line.component,
                "unit": line.unit,
                "quantity": round(line.quantity, 3),
                "price": line.price,
                "usd_a_month": round(line.usd, 2),
                "usd_a_million_events": round(line.usd / load.events * 1e6, 4),
            }
        )
    return rows


def compared(load: Load, prices: Prices) -> list[dict[str, object]]:
    ours = total(load, prices)
    alternatives = [(str(way), words, total(load, prices, way)) for way, words in WAYS.items()]
    for batch in sorted({1, 20, 100, 500} - {load.batch}):
        words = f"as deployed, with {count(batch, 'event')} per request"
        alternatives.append((f"batch {batch}", words, total(replace(load, batch=batch), prices)))
    return [
        {
            "way": way,
            "what": words,
            "usd_a_month": round(usd, 2),
            "usd_a_million_events": round(usd / load.events * 1e6, 4),
            "against_ours": f"{(usd / ours - 1):+.0%}",
        }
        for way, words, usd in alternatives
    ]


def command(
    context: typer.Context,
    *,
    events_per_day: Annotated[int, typer.Option(min=1, help="Number of events per day.")] = 1_000_000,
    batch: Annotated[int, typer.Option(min=1, max=500, help="Number of events per request.")] = 20,
    event_bytes: Annotated[int, typer.Option(min=1, max=65536, help="Size of an event, in bytes.")] = 500,
    geofence_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of geofence events among all events.")
    ] = 0.2,
    memory: Annotated[
        int, typer.Option(min=128, max=10240, help="Memory of the ingest function, in MB.")
    ] = 1024,
    provisioned: Annotated[
        bool, typer.Option("--provisioned", help="Use provisioned shards instead of an on-demand stream.")
    ] = False,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of shards (needs --provisioned or --small). Default: as many as the peak load needs.",
        ),
    ] = None,
    retention: Annotated[
        int, typer.Option(min=24, max=168, help="Retention period of the stream, in hours.")
    ] = 168,
    freshness: Annotated[
        int, typer.Option(min=1, max=1440, help="Time between two dbt runs, in minutes.")
    ] = 60,
    small: Annotated[
        bool,
        typer.Option("--small", help="Use the settings of stage `small` in serverless/stage_settings.yml."),
    ] = False,
    as_json: terminal.AsJson = False,
) -> None:
    """Estimate the monthly cost of a load at list prices, by component, and compare alternatives.

    The cost of dbt's warehouse is based mostly on assumptions, so it is shown separately.
    """
    if small and any(terminal.is_given(context, name) for name in ("provisioned", "retention", "freshness")):
        raise typer.BadParameter("--small sets --provisioned, --retention and --freshness: omit them")
    if shards and not (provisioned or small):
        raise typer.BadParameter("--shards requires --provisioned or --small")
    prices = Prices()
    load = Load(
        events_per_day=events_per_day,
        batch=batch,
        event_bytes=event_bytes,
        geofence_share=geofence_share,
        memory_mb=memory,
        provisioned=provisioned,
        stream_retention_hours=retention,
        freshness_minutes=freshness,
    )
    load = replace(load, shards=shards, **(SMALL if small else {}))
    rows, others = by_component(bill(load, prices), load), compared(load, prices)
    dbt = by_component(iter(warehouse(load, prices)), load)
    usd, of_dbt = total(load, prices), with_warehouse(load, prices) - total(load, prices)
    if as_json:
        terminal.print_json(
            {
                "prices_as_of": prices.as_of.isoformat(),
                "prices_not_confirmed": prices.not_confirmed,
                "events_per_day": events_per_day,
                "batch": batch,
                "components": rows,
                "usd_a_month": round(usd, 2),
                "usd_a_million_events": round(usd / load.events * 1e6, 4),
                "dbt_computed": dbt,
                "usd_a_month_with_dbt_computed": round(usd + of_dbt, 2),
                "compared": others,
                "recommended": recommended(load, prices),
                "sizes": sizes(prices),
            }
        )
        return
    terminal.show_rows(rows, as_json, title=f"{count(events_per_day, 'event')} per day, {batch} per request")
    terminal.out.print(f"\n${usd:,.2f} a month, ${usd / load.events * 1e6:.2f} per million events\n")
    terminal.show_rows(
        dbt, as_json, title=f"dbt's warehouse, with a run every {count(load.freshness_minutes, 'minute')}"
    )
    terminal.out.print(f"\ndbt's warehouse adds about ${of_dbt:,.2f} a month (estimated, not measured)\n")
    terminal.show_rows(others, as_json, title="Compared with other services and batch sizes")
    terminal.show_rows(recommended(load, prices), as_json, title="Changes that save at least 1 %")
    terminal.show_rows(sizes(prices), as_json, title="Small, medium and large loads, with suitable settings")
    terminal.out.print(
        f"\nList prices for us-east-1 as of {prices.as_of}, without free tiers (ops/prices.yml). Not "
        "included: other queries on Snowflake's warehouses, data transfer, support."
    )
    if prices.not_confirmed:
        terminal.out.print(
            f"[yellow]Check these prices, which no source confirms:[/] {', '.join(prices.not_confirmed)}"
        )
