"""Test that alarms and dashboard read existing metrics, and that alarms notify a topic and are in the runbook."""

import json
import re
import subprocess

import pytest
import yaml

from contract.metrics import ALARMED, METRICS
from ops.status_findings import PAGES
from tests.unit.serverless.templates import EVERYTHING, STAGES, of_type, properties, resources
from tools.check import ROOT, VARIANTS
from tools.error_codes import EVENT_CODES
from tools.milkrun import loaded

RUNBOOK = ROOT / "docs" / "runbook.md"
OUR_METRICS = {field for fields in METRICS.values() for field in fields} | {"throttled"}
OUR_METRICS |= {f"rejected_{code}" for code in EVENT_CODES}
CATALOGUE = yaml.safe_load((ROOT / "docs" / "reference" / "metrics.yml").read_text())
every_stage = pytest.mark.parametrize("stage", STAGES)


def all_alarms(variant: str) -> dict[str, dict]:
    """Return all alarms of a template, including the parts of composite alarms, keyed by their names without the
    prefix that contains the stage.
    """
    kinds = ("AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm")
    found = [alarm for kind in kinds for alarm in of_type(variant, kind).values()]
    stage, _ = VARIANTS[variant]
    return {a["AlarmName"].removeprefix(f"milkrun-{stage}-"): a for a in found}


def parts_of(alarm: dict) -> list[str]:
    """Return the full names of the alarms that a composite alarm combines."""
    return re.findall(r'ALARM\("([^"]+)"\)', alarm.get("AlarmRule", ""))


def alarms(variant: str) -> dict[str, dict]:
    """Return the alarms that notify somebody (all except the parts of composite alarms), keyed by name."""
    found = all_alarms(variant)
    parts = {part for alarm in found.values() for part in parts_of(alarm)}
    return {name: alarm for name, alarm in found.items() if alarm["AlarmName"] not in parts}


def metrics_of(alarm: dict) -> list[dict]:
    if "AlarmRule" in alarm:
        return []
    if "Metrics" in alarm:
        return [m["MetricStat"]["Metric"] for m in alarm["Metrics"] if "MetricStat" in m]
    return [alarm]


def catalogued(namespace: str, name: str) -> list[dict]:
    return [s for s in CATALOGUE if s["namespace"] == namespace and name in s["metrics"]]


def test_stage_that_logs_only_alarm_metrics_logs_exactly_those_that_its_alarms_read():
    read = {
        m["MetricName"]
        for alarm in all_alarms("small").values()
        for m in metrics_of(alarm)
        if m["Namespace"] == "Milkrun"
    }
    assert read == ALARMED
    assert properties("small", "IngestLambdaFunction")["Environment"]["Variables"]["METRICS"] == "alarms"
    assert not of_type("small", "AWS::CloudWatch::Dashboard")
    assert of_type("dev", "AWS::CloudWatch::Dashboard")


@pytest.mark.parametrize(("level", "status"), [("INFO", 0), ("DEBUG", 0), ("WARNING", 1), ("info", 1)])
def test_only_log_levels_that_keep_the_metrics_of_alarms_are_accepted(level, status):
    resolved = f"(name) => (name === 'param:logLevel' ? '{level}' : 'true')"
    script = f"require('./serverless/alarms.js')({{ resolveVariable: async {resolved} }})"
    packaged = subprocess.run(["node", "-e", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert packaged.returncode == status, packaged.stderr
    assert (f'logLevel is "{level}"' in packaged.stderr) is bool(status)


@pytest.mark.parametrize(("pipes", "loads"), [("true", "false"), ("false", "true")])
def test_failed_loads_alarm_needs_only_the_load_check_and_lag_alarm_only_the_pipe_check(pipes, loads):
    values = {
        "logLevel": "INFO",
        "alarmsRing": "true",
        "expectTraffic": "true",
        "checkPipes": pipes,
        "checkLoads": loads,
    }
    resolved = f"(name) => ({json.dumps(values)})[name.replace('param:', '')]"
    script = f"require('./serverless/alarms.js')({{ resolveVariable: async {resolved} }})"
    script += ".then(({ Resources }) => console.log(JSON.stringify(Resources)))"
    made = subprocess.run(["node", "-e", script], cwd=ROOT, capture_output=True, text=True, check=True)
    enabled = {n: r["Properties"].get("ActionsEnabled") for n, r in json.loads(made.stdout).items()}
    assert enabled["FailedLoadsAlarm"] is (loads == "true")
    assert enabled["SnowpipeLagAlarm"] is (pipes == "true")


def test_alarm_on_a_failing_check_also_fires_if_only_the_hourly_check_of_loads_fails():
    """Lambda invokes a failed check again after one and two minutes, and then not before the next hour. If the
    check logs no metric, the alarm failed-loads stays in state OK.
    """
    rules = of_type("prod", "AWS::Events::Rule").values()
    assert "rate(1 hour)" in {rule["ScheduleExpression"] for rule in rules}
    assert all_alarms("prod")["check-errors"]["Period"] >= 3600


def test_every_alarm_has_a_runbook_section_and_vice_versa():
    sections = re.findall(r"^## (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    of_alarms = [s for s in sections if not s[0].isupper()]
    assert sorted(of_alarms) == sorted(alarms(EVERYTHING))


def test_status_command_treats_exactly_the_paging_alarms_as_failures():
    pages = {n for n, each in alarms("prod").items() if each["AlarmActions"] == [{"Ref": "PageTopic"}]}
    assert pages == PAGES


def test_every_alarm_section_of_the_runbook_has_paragraphs_named_means_check_and_do():
    for section in re.split(r"^## ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]:
        if not section[0].isupper():
            for part in ("**Means**", "**Check**", "**Do**"):
                assert part in section, section.splitlines()[0]


@pytest.mark.parametrize("name", ["consume-stopped", "snowpipe-deaf"])
def test_runbook_undoes_a_change_made_by_hand_with_a_drift_aware_change_set(name):
    """A deployment changes only the properties that differ between the old and the new template. (AWS CloudFormation
    User Guide: "Using drift-aware change sets".)
    """
    sections = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", RUNBOOK.read_text(), re.MULTILINE))
    assert "(#changes-made-by-hand)" in sections[name]
    assert "deploy" not in sections[name].partition("**Do**")[2]
    assert "--deployment-mode REVERT_DRIFT" in sections["Changes made by hand"]


def test_every_alarm_links_to_its_runbook_section():
    for name, alarm in alarms(EVERYTHING).items():
        assert alarm["AlarmDescription"].endswith(f"docs/runbook.md#{name}")


def test_every_alarm_description_names_an_existing_command():
    known = loaded().commands
    for name, alarm in alarms(EVERYTHING).items():
        command = re.search(r"run: milkrun ([a-z]+)( [a-z]+)?.*?\. What to do", alarm["AlarmDescription"])
        assert command, name
        assert command[1] in known
        if command[1] == "warehouse":
            assert command[2].strip() in known["warehouse"].commands
        else:
            assert "--stage prod" in command[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_alarm_notifies_a_topic_when_it_fires_and_when_it_ends(variant):
    for alarm in alarms(variant).values():
        assert alarm["AlarmActions"] == alarm["OKActions"]
        assert alarm["AlarmActions"] in ([{"Ref": "AlarmTopic"}], [{"Ref": "PageTopic"}])


def test_alarms_that_need_no_parameter_are_enabled_only_in_staging_and_prod():
    for stage in STAGES:
        for name, alarm in alarms(stage).items():
            # These need the parameter expectTraffic, checkPipes or checkLoads.
            needs_parameter = name == "no-traffic" or name.startswith(("snowpipe-", "failed-loads"))
            expected = stage in ("staging", "prod") and not needs_parameter
            assert alarm["ActionsEnabled"] is expected, (stage, name)


def test_alarm_on_missing_traffic_is_enabled_only_after_the_launch_of_a_stage_with_enabled_alarms():
    assert alarms("prod")["no-traffic"]["ActionsEnabled"] is False
    assert alarms("prod-launched")["no-traffic"]["ActionsEnabled"] is True
    assert alarms("dev-launched")["no-traffic"]["ActionsEnabled"] is False
    assert not any(alarm["ActionsEnabled"] for alarm in alarms("dev-launched").values())


def test_requests_that_the_gateway_refuses_do_not_count_as_traffic():
    # API Gateway's Count includes requests without a valid key, such as those of scanners, or of all phones after their
    # key was revoked.
    metric = alarms("prod")["no-traffic"]
    assert (metric["Namespace"], metric["MetricName"]) == ("AWS/Lambda", "Invocations")
    assert metric["Dimensions"] == [{"Name": "FunctionName", "Value": {"Ref": "IngestLambdaFunction"}}]


def test_alarm_on_a_low_value_treats_missing_data_as_breaching():
    """An idle service sends no data points to CloudWatch, so the condition "less than one" would never be true."""
    launched = all_alarms("prod-launched")
    for name, alarm in launched.items():
        if alarm.get("ComparisonOperator") == "LessThanThreshold":
            [metric] = metrics_of(alarm)
            [service] = catalogued(metric["Namespace"], metric["MetricName"])
            assert service["metrics"][metric["MetricName"]]["idle"] == "none"
            assert alarm["TreatMissingData"] == "breaching", name
    breaching = {n for n, a in launched.items() if a.get("TreatMissingData") == "breaching"}
    assert breaching == {"no-traffic", "snowpipe-lag", "consumer-silent"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_disabled_alarm_does_not_treat_missing_data_as_breaching(variant):
    """CloudWatch notifies only when an alarm's state changes, and enabling the alarm does not change the state. If
    `no-traffic` were in state ALARM before launch day, it would notify nobody if no traffic arrived then. (Amazon
    CloudWatch API Reference: "PutMetricAlarm".)
    """
    disabled = {n: a for n, a in alarms(variant).items() if not a["ActionsEnabled"]}
    assert [n for n, a in disabled.items() if a.get("TreatMissingData") == "breaching"] == []


def test_alarm_fires_if_records_arrive_but_the_consumer_does_not_run():
    """No other alarm fires if the event source mapping is disabled, because IteratorAge has data only while
    batches are delivered.
    """
    stopped = alarms("prod")["consume-stopped"]
    assert stopped["AlarmActions"] == [{"Ref": "PageTopic"}]
    parts = {a["AlarmName"]: a for a in all_alarms("prod").values()}
    incoming, silent = (parts[name] for name in parts_of(stopped))
    assert (incoming["MetricName"], incoming["ComparisonOperator"]) == (
        "IncomingRecords",
        "GreaterThanThreshold",
    )
    assert (silent["MetricName"], silent["ComparisonOperator"]) == ("Invocations", "LessThanThreshold")
    assert silent["Dimensions"] == [{"Name": "FunctionName", "Value": {"Ref": "ConsumeLambdaFunction"}}]
    for part in (incoming, silent):
        assert "AlarmActions" not in part
        assert part["Period"] * part["EvaluationPeriods"] == 900


@pytest.mark.parametrize("name", ["redrive-waiting", "dead-letters"])
def test_queue_alarms_also_count_messages_in_flight(name):
    counted = {metric["MetricName"] for metric in metrics_of(alarms("prod")[name])}
    assert counted == {"ApproximateNumberOfMessagesVisible", "ApproximateNumberOfMessagesNotVisible"}


@pytest.mark.parametrize("name", ["redrive-waiting", "dead-letters"])
def test_alarm_whose_expression_fills_gaps_fires_although_the_latest_minutes_have_no_data_yet(name):
    """FILL inserts 0 for the latest minutes if their data points are published late. If all periods had to breach, the
    alarm might then stay in state OK. (Amazon CloudWatch User Guide: "Using math expressions with CloudWatch metrics".)
    """
    alarm = alarms("prod")[name]
    assert any("FILL(" in metric.get("Expression", "") for metric in alarm["Metrics"])
    assert alarm["EvaluationPeriods"] - alarm["DatapointsToAlarm"] >= 4


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_alarm_expression_uses_all_metrics_of_the_alarm(variant):
    for name, alarm in all_alarms(variant).items():
        known = {metric["Id"] for metric in alarm.get("Metrics", []) if "MetricStat" in metric}
        for metric in alarm.get("Metrics", []):
            if "Expression" in metric:
                assert known <= set(re.findall(r"\w+", metric["Expression"])), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_alarm_metric_is_published_by_its_service(variant):
    for name, alarm in all_alarms(variant).items():
        for metric in metrics_of(alarm):
            names = sorted(dimension["Name"] for dimension in metric["Dimensions"])
            check_metric(metric["Namespace"], metric["MetricName"], names)
            for service in catalogued(metric["Namespace"], metric["MetricName"]):
                assert service.get("alarms") != "never", name
                assert "avoid" not in service["metrics"][metric["MetricName"]], name


@every_stage
def test_every_dashboard_metric_is_published_by_its_service(stage):
    for namespace, metric, *rest in metric_rows(stage):
        check_metric(namespace, metric, sorted(rest[:-1:2]))


def check_metric(namespace: str, name: str, dimensions: list[str]) -> None:
    services = catalogued(namespace, name)
    assert services, f"{namespace} {name} is not in docs/reference/metrics.yml"
    published = [sorted(known) for service in services for known in service["dimensions"]]
    assert dimensions in published, f"{namespace} {name} is not published with the dimensions {dimensions}"


def test_metric_catalogue_has_sources_and_only_metrics_that_are_used_or_kept_as_a_warning():
    read = {(row[0], row[1]) for row in metric_rows("prod")}
    for alarm in all_alarms(EVERYTHING).values():
        read |= {(metric["Namespace"], metric["MetricName"]) for metric in metrics_of(alarm)}
    for service in CATALOGUE:
        assert service["source"]
        for name, facts in service["metrics"].items():
            assert facts["idle"] in ("zero", "none")
            kept_as_a_warning = "avoid" in facts or name in ("ThrottledRequests", "received")
            assert kept_as_a_warning or (service["namespace"], name) in read, name


@every_stage
def test_milkrun_metrics_in_alarms_and_dashboard_are_logged_by_our_functions(stage):
    watched = {
        m["MetricName"]
        for alarm in all_alarms(stage).values()
        for m in metrics_of(alarm)
        if m["Namespace"] == "Milkrun"
    }
    shown = {row[1] for row in metric_rows(stage) if row[0] == "Milkrun"}
    assert watched
    assert watched | shown <= OUR_METRICS


@every_stage
def test_every_alarm_dimension_refers_to_a_resource_of_the_stack_or_to_the_stage(stage):
    for alarm in all_alarms(stage).values():
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


def metric_rows(stage: str) -> list[list]:
    """Return the dashboard's rows that show one metric: [namespace, metric, dimension name, dimension value, …,
    options]. Rows that show a sum are omitted.
    """
    return [row for row in panels(stage) if isinstance(row[0], str)]


@every_stage
def test_every_dashboard_sum_uses_metrics_of_the_same_panel(stage):
    """The panel hides the metrics of its sums, so a metric that no sum uses would not be shown at all."""
    body = properties(stage, "Dashboard")["DashboardBody"]["Fn::Sub"]
    sums = 0
    for widget in json.loads(body)["widgets"]:
        rows = widget["properties"]["metrics"]
        hidden = {row[-1]["id"] for row in rows if row[-1].get("visible") is False}
        expressions = [row[0]["expression"] for row in rows if isinstance(row[0], dict)]
        assert set(re.findall(r"[a-z]+\d+", " ".join(expressions))) == hidden
        sums += len(expressions)
    assert sums == 3


@every_stage
def test_dashboard_refers_only_to_resources_of_the_stack(stage):
    body = properties(stage, "Dashboard")["DashboardBody"]["Fn::Sub"]
    for name in re.findall(r"\$\{(\w+)[.}]", body):
        assert name in resources(stage)


@pytest.mark.parametrize("name", ["iterator-age", "iterator-age-hour"])
def test_iterator_age_alarm_fires_although_a_failing_batch_is_retried_only_every_few_minutes(name):
    # IteratorAge has a data point per invocation. If the table is throttled, the function reports failed records and
    # no error, so no other alarm fires, and Lambda pauses before it invokes the function again.
    alarm = all_alarms("prod")[name]
    assert alarm["Period"] >= 300
    assert alarm["DatapointsToAlarm"] < alarm["EvaluationPeriods"]


@every_stage
def test_iterator_age_alarm_fires_long_before_records_reach_the_maximum_age(stage):
    [mapping] = [
        m for m in of_type(stage, "AWS::Lambda::EventSourceMapping").values() if "StartingPosition" in m
    ]
    page = alarms(stage)["iterator-age-hour"]["Threshold"] / 1000
    assert page * 4 < mapping["MaximumRecordAgeInSeconds"]
