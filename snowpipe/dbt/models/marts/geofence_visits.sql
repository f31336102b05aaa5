-- The rule is the consumer's (consumer/visits.py); a test runs both on the same sets of events.
-- What a late event touches is a whole (device, fence): all its visits are computed anew from all its events.
{{ config(
    materialized='incremental',
    unique_key='device_fence_key',
    incremental_strategy='delete+insert',
    post_hook="{{ drop_ghost_visits() }}"
) }}

WITH touched AS (

    SELECT DISTINCT device_fence_key FROM {{ ref('stg_geofence_events') }}
    {% if is_incremental() %}
        WHERE {{ newly_loaded('loaded_at', this, 'loaded_at') }}
    {% endif %}

),

counted AS (

    SELECT
        *,
        CASE kind WHEN 'enter' THEN 0 WHEN 'dwell' THEN 1 ELSE 2 END AS kind_order
    FROM {{ ref('stg_geofence_events') }}
    WHERE
        device_fence_key IN (SELECT device_fence_key FROM touched)
        AND COALESCE(confidence, 3) >= {{ var('min_confidence') }}

),

-- Every enter begins a crossing; what stands before the first one belongs to none.
numbered AS (

    SELECT
        *,
        SUM(IFF(kind = 'enter', 1, 0)) OVER (
            PARTITION BY device_fence_key ORDER BY occurred_at, kind_order, event_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS crossing_number
    FROM counted

),

-- The first exit ends the crossing; what follows it until the next enter is orphaned.
within AS (

    SELECT
        *,
        SUM(IFF(kind = 'exit', 1, 0)) OVER (
            PARTITION BY device_fence_key, crossing_number ORDER BY occurred_at, kind_order, event_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) - IFF(kind = 'exit', 1, 0) AS exits_before
    FROM numbered
    WHERE crossing_number > 0

),

crossings AS (

    SELECT
        device_fence_key,
        crossing_number,
        MAX(device_id) AS device_id,
        MAX(geofence_tag) AS geofence_tag,
        MAX(geofence_external_id) AS geofence_external_id,
        MAX(IFF(kind = 'enter', occurred_at, NULL)) AS entered_at,
        MAX(IFF(kind = 'enter', event_id, NULL)) AS entered_event_id,
        MAX(IFF(kind = 'exit', occurred_at, NULL)) AS exited_at,
        MAX(IFF(kind = 'exit', event_id, NULL)) AS exited_event_id,
        MAX(IFF(kind = 'exit', duration_minutes, NULL)) AS app_dwell_minutes,
        MAX(IFF(kind = 'dwell', occurred_at, NULL)) AS last_seen_at,
        MAX(loaded_at) AS loaded_at
    FROM within
    WHERE exits_before = 0
    GROUP BY device_fence_key, crossing_number

),

-- A crossing that begins at most the gap after the one before it ended goes on with that visit.
gaps AS (

    SELECT
        *,
        LAG(exited_at) OVER (PARTITION BY device_fence_key ORDER BY crossing_number) AS exited_before_at,
        MAX(crossing_number) OVER (PARTITION BY device_fence_key) AS last_crossing_number
    FROM crossings

),

merged AS (

    SELECT
        *,
        SUM(
            IFF(entered_at <= DATEADD('second', {{ var('merge_gap_seconds') }}, exited_before_at), 0, 1)
        ) OVER (
            PARTITION BY device_fence_key ORDER BY crossing_number
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS visit_number
    FROM gaps

),

ends AS (

    SELECT
        *,
        ROW_NUMBER() OVER (PARTITION BY device_fence_key, visit_number ORDER BY crossing_number) AS from_first,
        ROW_NUMBER() OVER (PARTITION BY device_fence_key, visit_number ORDER BY crossing_number DESC) AS from_last
    FROM merged

),

visits AS (

    SELECT
        device_fence_key,
        MAX(device_id) AS device_id,
        MAX(geofence_tag) AS geofence_tag,
        MAX(geofence_external_id) AS geofence_external_id,
        MAX(IFF(from_first = 1, entered_at, NULL)) AS entered_at,
        MAX(IFF(from_last = 1, exited_at, NULL)) AS exited_at,
        MAX(IFF(from_first = 1, entered_event_id, NULL)) AS entered_event_id,
        MAX(IFF(from_last = 1, exited_event_id, NULL)) AS exited_event_id,
        MAX(IFF(from_last = 1, app_dwell_minutes, NULL)) * 60 AS app_dwell_seconds,
        MAX(last_seen_at) AS last_seen_at,
        MAX(crossing_number) AS crossing_number,
        MAX(last_crossing_number) AS last_crossing_number,
        COUNT(*) AS crossings,
        MAX(loaded_at) AS loaded_at
    FROM ends
    GROUP BY device_fence_key, visit_number

)

SELECT
    {{ key_of(['device_fence_key', 'entered_event_id']) }} AS visit_key,
    device_fence_key,
    device_id,
    geofence_tag,
    geofence_external_id,
    entered_at,
    exited_at,
    DATEDIFF('microsecond', entered_at, exited_at) / 1000000.0 AS dwell_seconds,
    app_dwell_seconds,
    last_seen_at,
    (exited_at IS NULL AND crossing_number < last_crossing_number) AS exit_missed,
    (exited_at IS NULL AND crossing_number = last_crossing_number) AS is_there_now,
    entered_event_id,
    exited_event_id,
    crossings,
    loaded_at
FROM visits
