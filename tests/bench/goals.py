"""The goals of the benchmarks: maximum ratios (RATIOS), minimums of the loader (FLOORS), other maximums (CEILINGS)."""

RATIOS = (
    ("handler/naive@100", 0.5),
    ("handler/naive@500", 0.45),
    ("handler/powertools@100", 0.5),
    ("handler/limit@100", 1.5),
    ("handler/limit@500", 1.9),
    ("handler_own/json.loads@100", 8.0),
    ("handler/cached_token@100", 1.03),
    ("cold_start/identity", 1.45),
    ("cold_start/naive", 0.35),
    ("cold_start/powertools_tracer", 0.35),
    ("cold_start/powertools", 0.6),
    ("consumer/powertools@500", 0.2),
    *(
        (f"marts/scanned over new and touched/{kind}@{size}", 3.0)
        for size in (10**6, 10**7, 10**8)
        for kind in ("hour", "backlog")
    ),
    ("marts/seconds of a run at 10 times the history/hour", 2.0),
    ("marts/seconds of a run at 10 times the history/backlog", 2.0),
)
FLOORS = (("loader/objects_per_s", 150.0), ("loader/rows_per_s", 20_000.0), ("loader/localstack_gets", 0.7))
CEILINGS = (
    ("loader/put_to_row_s p95@20", 3.0),
    ("loader/peak_mib", 600.0),
    ("dbt/sql_s@1000000", 20.0),
    ("handler/cached_token_us", 50.0),
    ("handler/new_token_us", 200.0),
    ("handler/largest_peak_mib", 128.0),
    ("bill/usd per million events at 1000/s", 1.30),
    ("bill/usd per million events at 1000/s, 100 per request", 0.85),
    ("bill/usd per million events at 1M a day, small", 2.20),
    ("bill/usd a month fixed, small", 18.0),
    ("consumer/write_units_per_event rounds", 2.2),
    ("consumer/read_units_per_event rounds", 1.0),
    ("consumer/own_us_per_event 500", 60.0),
    ("cost/consume_cpu_ms_event ours", 0.46),
    ("consumer/calls_per_event 200", 0.72),
    ("consumer/calls_per_event 200 pairs, again", 2.36),
    *(
        (f"client_memory/mib {name}", 300.0)
        for name in ("backfill", "recreate", "validate", "monitor", "reconcile")
    ),
)
