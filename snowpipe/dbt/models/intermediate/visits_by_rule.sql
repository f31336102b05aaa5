-- The visits that the new events change, computed again within their windows; in a full refresh, all visits. The rule is
-- the consumer's (consumer/visits.py); a test compares both on the same sets of events.
{{ config(materialized='table') }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('touched_days') }}
-- depends_on: {{ ref('visit_windows') }}

WITH counted AS (

    SELECT
        events.device_fence_key,
        events.device_id,
        events.geofence_tag,
        events.geofence_external_id,
        events.event_id,
        events.kind,
        events.occurred_at,
        CASE events.kind WHEN 'enter' THEN 0 WHEN 'dwell' THEN 1 ELSE 2 END AS kind_order,
        events.duration_minutes * 60 AS duration_seconds,
        events.loaded_at,
        0 AS crossings_before,
        {% if reads_everything() %}
            FALSE AS is_followed
    FROM {{ ref('stg_geofence_events') }} AS events
    WHERE COALESCE(events.confidence, 3) >= {{ var('min_confidence') }}
        {% else %}
            windows.ends_at < '9999-01-01'::TIMESTAMP_NTZ AS is_followed
    FROM {{ ref('stg_geofence_events') }} AS events
    INNER JOIN {{ ref('visit_windows') }} AS windows ON events.device_fence_key = windows.device_fence_key
    WHERE
        {{ one_of_days('events.event_date', days_read()) }}
        AND COALESCE(events.confidence, 3) >= {{ var('min_confidence') }}
        AND events.occurred_at >= windows.reads_from
        AND events.occurred_at < windows.ends_at
        -- At the same instant, enters that sort before the visit's first event belong to the previous visit.
        AND NOT (
            events.kind = 'enter'
            AND events.occurred_at = windows.restates_from
            AND events.event_id < windows.restates_from_event_id
        )
    UNION ALL
    -- The events of a visit that the window continues are not read; its enter, dwell and exit represent them.
    SELECT
        visits.device_fence_key,
        visits.device_id,
        visits.geofence_tag,
        visits.geofence_external_id,
        CASE parts.kind WHEN 'enter' THEN visits.entered_event_id WHEN 'exit' THEN visits.exited_event_id ELSE '' END
            AS event_id,
        parts.kind,
        CASE parts.kind
            WHEN 'enter' THEN visits.entered_at WHEN 'dwell' THEN visits.last_seen_at ELSE visits.exited_at
        END AS occurred_at,
        parts.kind_order,
        visits.app_dwell_seconds AS duration_seconds,
        visits.loaded_at,
        IFF(parts.kind = 'enter', visits.crossings - 1, 0) AS crossings_before,
        visits.ends_at < '9999-01-01'::TIMESTAMP_NTZ AS is_followed
    FROM {{ ref('visit_windows') }} AS visits
    CROSS JOIN (
        SELECT 'enter' AS kind, 0 AS kind_order UNION ALL SELECT 'dwell', 1 UNION ALL SELECT 'exit', 2
    ) AS parts
    WHERE
        visits.continues
        AND (
            parts.kind = 'enter'
            OR (parts.kind = 'dwell' AND visits.last_seen_at IS NOT NULL)
            OR (parts.kind = 'exit' AND visits.exited_at IS NOT NULL)
        )
        {% endif %}

),

-- Every enter begins a crossing; events before the first one belong to none.
numbered AS (

    SELECT
        *,
        SUM(IFF(kind = 'enter', 1, 0)) OVER (
            PARTITION BY device_fence_key ORDER BY occurred_at, kind_order, event_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS crossing_number
    FROM counted

),

-- The first exit ends the crossing; later events before the next enter are orphaned.
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
        MAX(IFF(kind = 'exit', duration_seconds, NULL)) AS app_dwell_seconds,
        MAX(IFF(kind = 'dwell', occurred_at, NULL)) AS last_seen_at,
        MAX(occurred_at) AS last_event_at,
        SUM(crossings_before) AS crossings_before,
        MAX(IFF(is_followed, 1, 0)) AS is_followed,
        MAX(loaded_at) AS loaded_at
    FROM within
    WHERE exits_before = 0
    GROUP BY device_fence_key, crossing_number

),

-- A crossing that begins within the merge gap after the previous one continues its visit.
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
        MAX(IFF(from_last = 1, app_dwell_seconds, NULL)) AS app_dwell_seconds,
        MAX(last_seen_at) AS last_seen_at,
        MAX(crossing_number) AS crossing_number,
        MAX(last_crossing_number) AS last_crossing_number,
        MAX(last_event_at) AS last_event_at,
        MAX(is_followed) = 1 AS is_followed,
        (COUNT(*) + SUM(crossings_before))::INTEGER AS crossings,
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
    CAST(entered_at AS DATE) AS entered_date,
    exited_at,
    DATEDIFF('microsecond', entered_at, exited_at) / 1000000.0 AS dwell_seconds,
    app_dwell_seconds,
    last_seen_at,
    (exited_at IS NULL AND (is_followed OR crossing_number < last_crossing_number)) AS exit_missed,
    (exited_at IS NULL AND NOT is_followed AND crossing_number = last_crossing_number) AS is_there_now,
    entered_event_id,
    exited_event_id,
    crossings,
    last_event_at,
    loaded_at
FROM visits
