"""Test that the monthly bill matches figures calculated by hand, and that its prices have sources."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from ops import cost, monthly_bill
from ops.cost import compared
from ops.monthly_bill import PRICES, SMALL, Load, Prices, bill, total, warehouse
from tests.unit.serverless import templates

LOAD = Load(events_per_day=1_000_000, batch=20)


@pytest.fixture(scope="module")
def prices():
    return Prices()


def usd(lines, *wanted):
    return sum(
        line.usd for line in lines if line.component in wanted or (line.component, line.unit) in wanted
    )


@pytest.mark.parametrize(
    ("batch", "rest", "http", "url", "put"),
    # US dollars per million 500-byte events, a fifth of which are geofence events, with 1024 MB on arm64
    [(1, 9.78, 7.28, 6.28, 5.00), (20, 0.52, 0.39, 0.34, 0.25), (100, 0.13, 0.10, 0.09, 0.05)],
)
def test_cost_of_ingest_matches_the_cost_calculated_by_hand(prices, batch, rest, http, url, put):
    load = replace(LOAD, batch=batch)
    for way, expected in (("rest", rest), ("http", http), ("url", url)):
        lines = list(bill(load, prices, way))
        million = load.events / 1e6
        way_in = usd(lines, "API Gateway", "ingest function", "SNS", ("S3", "PUT"))
        stream = usd(lines, ("Kinesis", "GB in"), ("Kinesis", "GB out"))
        # The figures are rounded to a cent, which matters for small amounts.
        assert (way_in + stream) / million == pytest.approx(expected, rel=0.03, abs=0.013)
        assert usd(lines, ("S3", "PUT")) / million == pytest.approx(put)


def test_cost_of_a_stream_matches_the_cost_calculated_by_hand(prices):
    """At 1,000 events per second, of which a fifth are geofence events and go to the stream, the stream costs about
    $29 a month with two shards, or $79 on demand.
    """
    load = Load(86_400_000, 20, stream_retention_hours=24)
    shards = replace(load, provisioned=True, shards=2)
    assert usd(bill(shards, prices), "Kinesis") == pytest.approx(29, rel=0.05)
    assert usd(bill(load, prices), "Kinesis") == pytest.approx(79, rel=0.08)


def test_larger_batches_reduce_the_cost(prices):
    each = [total(replace(LOAD, batch=batch), prices) for batch in (1, 5, 20, 100, 500)]
    assert each == sorted(each, reverse=True)
    assert each[0] > 3 * each[2]


def test_firehose_bills_a_small_record_as_five_kilobytes(prices):
    [line] = [line for line in bill(LOAD, prices, "firehose") if line.component == "Firehose"]
    assert line.quantity == pytest.approx(LOAD.events * 5000 / 1e9)
    [line] = [
        x for x in bill(replace(LOAD, event_bytes=5001), prices, "firehose") if x.component == "Firehose"
    ]
    assert line.quantity == pytest.approx(LOAD.events * 10_000 / 1e9)


def test_alternative_endpoints_are_compared_with_the_rest_api(prices):
    rows = {row["way"]: row for row in compared(LOAD, prices)}
    assert rows["rest"]["against_ours"] == "+0%"
    assert rows["url"]["usd_a_month"] < rows["http"]["usd_a_month"] < rows["rest"]["usd_a_month"]
    assert {"batch 1", "batch 100", "batch 500"} <= rows.keys()


def test_peak_above_the_capacity_of_a_shard_needs_another_shard():
    assert Load(86_400_000, 20).needed_shards == 1  # 200 records per second on average, 800 at the peak
    assert Load(864_000_000, 20).needed_shards == 8
    assert Load(86_400_000, 20, event_bytes=5000).needed_shards == 4  # 4 MB per second at the peak


def test_cost_has_a_fixed_minimum_and_grows_with_the_load(prices):
    small, large = total(Load(1000, 20), prices), total(Load(10_000_000, 20), prices)
    assert 0 < small < large
    assert small > 30  # the stream, metrics and alarms cost money even without events


ABOUT = {"source", "seen_in", "seen_on", "not_confirmed"}


def services():
    found = yaml.safe_load(PRICES.read_text())
    return {name: entry for name, entry in found.items() if isinstance(entry, dict)}


def test_every_price_is_positive_and_used():
    source = (PRICES.parent / "monthly_bill.py").read_text()
    for service, entry in services().items():
        for item in entry.keys() - ABOUT:
            assert entry[item] > 0
            assert f'"{service}.{item}"' in source, f"{service}.{item} is not in any bill"


def test_every_price_has_sources_and_a_date():
    for service, entry in services().items():
        for url in (entry["source"], *entry["seen_in"]):
            assert url.startswith("https://"), service
        assert isinstance(entry["seen_on"], date)
        assert set(entry.get("not_confirmed", ())) <= entry.keys() - ABOUT


def test_unconfirmed_prices_are_listed_below_the_bill(prices):
    assert prices.not_confirmed == ["firehose.gb_in"]
    assert json.loads(run("--json"))["prices_not_confirmed"] == prices.not_confirmed
    table = run()
    assert f"of {prices.as_of}, without" in table
    assert "Check these prices, which no source confirms: firehose.gb_in" in table


def test_price_list_has_the_date_of_its_oldest_price(tmp_path):
    made = tmp_path / "prices.yml"
    made.write_text("a: {seen_on: 2026-11-23, x: 1}\nb: {seen_on: 2025-01-02, y: 2, not_confirmed: [y]}\n")
    assert Prices(made).as_of == date(2025, 1, 2)
    assert Prices(made).not_confirmed == ["b.y"]


@pytest.mark.slow
def test_bill_counts_the_metrics_of_the_deployed_alarms():
    alarms = templates.of_type("prod", "AWS::CloudWatch::Alarm").values()
    read = sum(len([m for m in a["Metrics"] if "MetricStat" in m]) if "Metrics" in a else 1 for a in alarms)
    assert read == monthly_bill.ALARM_METRICS
    assert len(templates.of_type("prod", "AWS::CloudWatch::CompositeAlarm")) == monthly_bill.COMPOSITE_ALARMS


def test_bill_of_stage_small_uses_the_settings_of_that_stage(prices):
    given = yaml.safe_load((templates.check.ROOT / "serverless" / "stage_settings.yml").read_text())
    stage = given["default"] | given["small"]
    assert {
        "provisioned": stage["streamMode"] == "PROVISIONED",
        "stream_retention_hours": stage["streamRetentionHours"],
        "log_days": stage["logRetentionDays"],
        "metrics": stage["metrics"],
        "dashboard": stage["dashboard"],
        "tracing": stage["tracing"],
        "check_loads": stage["checkLoads"],
        "freshness_minutes": stage["freshnessMinutes"],
    } == SMALL
    assert total(Load(1, 1, **SMALL), prices) <= 18
    assert total(replace(LOAD, **SMALL), prices) / LOAD.events * 1e6 <= 2.20


def test_recommended_settings_are_stage_settings_that_save_money(prices):
    given = yaml.safe_load((templates.check.ROOT / "serverless" / "stage_settings.yml").read_text())[
        "default"
    ]
    assert {setting.partition(":")[0] for setting, _ in cost.SETTINGS if ":" in setting} <= given.keys()
    rows = {row["setting"]: row["saves_usd_a_month"] for row in cost.recommended(LOAD, prices)}
    assert rows["checkLoads: false"] == pytest.approx(24.3, abs=0.1)
    assert "streamMode: ON_DEMAND" not in rows
    assert not cost.recommended(replace(LOAD, batch=100, notifications=False, **SMALL), prices)


def test_longer_archive_retention_increases_only_the_cost_of_dbts_search_in_the_ledger(prices):
    """Each dbt run compares its events with the ledger, which contains the keys of all archived events."""
    short, long = (warehouse(replace(LOAD, archive_days=days), prices) for days in (40, 400))
    assert long[0].usd == short[0].usd
    assert 5 * short[1].usd < long[1].usd < 10 * short[1].usd


def run(*arguments):
    app = typer.Typer()
    app.command()(cost.command)
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output
    return done.output


def test_table_and_json_show_the_same_monthly_cost():
    found = json.loads(run("--events-per-day", "1000000", "--batch", "20", "--json"))
    assert found["prices_as_of"] == Prices().as_of.isoformat()
    assert found["usd_a_month"] == pytest.approx(
        sum(row["usd_a_month"] for row in found["components"]), abs=0.2
    )
    table = run("--events-per-day", "1000000", "--batch", "20")
    assert f"${found['usd_a_month']:,.2f} a month" in table
    assert "function URL instead" in table


def numbers_of(page: str, row: str) -> list[float]:
    [line] = [line for line in page.splitlines() if line.startswith(f"| {row}")]
    return [float(cell.strip(" *").replace(",", "")) for cell in line.split("|")[2:-1]]


def test_scale_page_shows_the_figures_of_the_bill() -> None:
    page = (Path(__file__).parents[3] / "docs" / "scale.md").read_text()
    rates, batches = (1_000, 100_000, 1_000_000), (20, 20, 100)
    loads = [Load(rate * 86_400, batch) for rate, batch in zip(rates, batches, strict=True)]
    # The tolerance is for the CPU time, which each benchmark run measures again; its share of the cost is small.
    assert numbers_of(page, "**per month**") == pytest.approx(
        [total(load, Prices()) for load in loads], rel=0.02
    )
    units = [
        rate * load.geofence_share * load.work.write_units_event
        for rate, load in zip(rates, loads, strict=True)
    ]
    assert numbers_of(page, "DynamoDB write units") == units
