"""Every alarm can ring, somebody hears it, and the runbook says what to do."""

import json
import re

import pytest

from contract.metrics import METRICS
from tests.unit.serverless.templates import EVERYTHING, STAGES, of_type, properties, resources
from tools.check import ROOT, VARIANTS

RUNBOOK = ROOT / "docs" / "runbook.md"
OUR_METRICS = {field for fields in METRICS.values() for field in fields} | {"throttled"}
every_stage = pytest.mark.parametrize("stage", STAGES)


def alarms(variant: str) -> dict[str, dict]:
    found = of_type(variant, "AWS::CloudWatch::Alarm").values()
    stage, _ = VARIANTS[variant]
    return {a["AlarmName"].removeprefix(f"milkrun-{stage}-"): a for a in found}


def metrics_of(alarm: dict) -> list[dict]:
    if "Metrics" in alarm:
        return [m["MetricStat"]["Metric"] for m in alarm["Metrics"] if "MetricStat" in m]
    return [alarm]


def test_every_alarm_has_a_section_in_the_runbook_and_every_section_an_alarm():
    sections = re.findall(r"^## (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    of_alarms = [s for s in sections if not s[0].isupper()]
    assert sorted(of_alarms) == sorted(alarms(EVERYTHING))


def test_every_section_of_an_alarm_says_what_it_means_what_to_look_at_and_what_to_do():
    for section in re.split(r"^## ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]:
        if not section[0].isupper():
            for part in ("**Means**", "**Look**", "**Do**"):
                assert part in section, section.splitlines()[0]


def test_every_alarm_leads_to_its_section():
    for name, alarm in alarms(EVERYTHING).items():
        assert alarm["AlarmDescription"].endswith(f"docs/runbook.md#{name}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_somebody_hears_when_it_rings_and_when_it_is_over(variant):
    for alarm in alarms(variant).values():
        assert alarm["AlarmActions"] == alarm["OKActions"]
        assert alarm["AlarmActions"] in ([{"Ref": "AlarmTopic"}], [{"Ref": "PageTopic"}])


def test_alarms_ring_in_staging_and_prod_only_and_those_of_the_pipes_once_they_are_checked():
    for stage in STAGES:
        for name, alarm in alarms(stage).items():
            rings = stage in ("staging", "prod") and not name.startswith(("snowpipe-", "failed-loads"))
            assert alarm["ActionsEnabled"] is rings, (stage, name)


def test_silence_is_bad_news_where_it_should_be():
    breaching = {n for n, a in alarms("prod").items() if a["TreatMissingData"] == "breaching"}
    assert breaching == {"no-traffic", "snowpipe-lag"}


@every_stage
def test_every_number_of_ours_that_an_alarm_or_panel_waits_for_is_one_that_we_write(stage):
    watched = {
        m["MetricName"]
        for alarm in alarms(stage).values()
        for m in metrics_of(alarm)
        if m["Namespace"] == "Milkrun"
    }
    shown = {row[1] for row in panels(stage) if row[0] == "Milkrun"}
    assert watched
    assert watched | shown <= OUR_METRICS


@every_stage
def test_every_dimension_names_a_resource_of_this_stack_or_its_stage(stage):
    for alarm in alarms(stage).values():
        for metric in metrics_of(alarm):
            for dimension in metric["Dimensions"]:
                match dimension["Value"]:
                    case {"Ref": name} | {"Fn::GetAtt": [name, _]}:
                        assert name in resources(stage)
                    case text:
                        assert text in (stage, f"milkrun-{stage}")
    assert properties(stage, "ApiGatewayRestApi")["Name"] == f"milkrun-{stage}"


def panels(stage: str) -> list[list]:
    body = properties(stage, "Dashboard")["DashboardBody"]["Fn::Sub"]
    widgets = json.loads(body)["widgets"]
    assert len(widgets) == 12
    return [row for widget in widgets for row in widget["properties"]["metrics"]]


@every_stage
def test_the_dashboard_refers_to_what_the_stack_has(stage):
    body = properties(stage, "Dashboard")["DashboardBody"]["Fn::Sub"]
    for name in re.findall(r"\$\{(\w+)[.}]", body):
        assert name in resources(stage)


@every_stage
def test_the_last_hour_before_batches_are_given_up_is_long(stage):
    [mapping] = [
        m for m in of_type(stage, "AWS::Lambda::EventSourceMapping").values() if "StartingPosition" in m
    ]
    page = alarms(stage)["iterator-age-hour"]["Threshold"] / 1000
    assert page * 4 < mapping["MaximumRecordAgeInSeconds"]
