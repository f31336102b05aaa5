-- The totals of geofence_pairs by day, so that a run need not read a pair's whole history.
{{ config(
    materialized='incremental',
    incremental_strategy='restate',
    cluster_by=['event_date'],
    meta={'restates': 'event_date'}
) }}

-- depends_on: {{ ref('restated_days') }}

WITH events AS (

    SELECT
        device_fence_key,
        event_date,
        MAX(device_id) AS device_id,
        MAX(geofence_tag) AS geofence_tag,
        MAX(geofence_external_id) AS geofence_external_id,
        COUNT_IF(kind = 'enter') AS enters,
        COUNT_IF(kind = 'dwell') AS dwells,
        COUNT_IF(kind = 'exit') AS exits
    FROM {{ ref('stg_geofence_events') }}
    WHERE
        COALESCE(confidence, 3) >= {{ var('min_confidence') }}
        {% if is_incremental() %}
            AND {{ among('event_date', ref('restated_days'), 'event_date') }}
        {% endif %}
    GROUP BY device_fence_key, event_date

),

-- Every visit begins with an event on its entered_date, so the left join below loses no visit.
visits AS (

    SELECT
        device_fence_key,
        entered_date,
        COUNT(*) AS visits,
        COUNT_IF(exit_missed) AS missed_exits,
        COUNT_IF(is_there_now) AS open_visits,
        SUM(crossings) - COUNT_IF(exited_at IS NULL) AS closing_exits,
        SUM(dwell_seconds) AS dwell_seconds,
        MAX(exited_at) AS last_exited_at
    FROM {{ ref('geofence_visits') }}
    {% if is_incremental() %}
        WHERE {{ among('entered_date', ref('restated_days'), 'event_date') }}
    {% endif %}
    GROUP BY device_fence_key, entered_date

)

SELECT
    {{ key_of(['events.event_date::VARCHAR', 'events.device_fence_key']) }} AS pair_day_key,
    events.device_fence_key,
    events.event_date,
    events.device_id,
    events.geofence_tag,
    events.geofence_external_id,
    events.enters,
    events.dwells,
    events.exits,
    COALESCE(visits.visits, 0) AS visits,
    COALESCE(visits.missed_exits, 0) AS missed_exits,
    COALESCE(visits.open_visits, 0) AS open_visits,
    COALESCE(visits.closing_exits, 0) AS closing_exits,
    COALESCE(visits.dwell_seconds, 0) AS dwell_seconds,
    visits.last_exited_at
FROM events
LEFT JOIN visits
    ON events.device_fence_key = visits.device_fence_key AND events.event_date = visits.entered_date
