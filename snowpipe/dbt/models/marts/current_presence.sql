-- This view applies the rule of ops/presence_rule.py; tests/e2e/test_marts.py compares both on the same sets of events.
{{ config(materialized='view') }}

WITH open_visits AS (

    SELECT * FROM {{ ref('geofence_pair_heads') }}
    WHERE entered_at IS NOT NULL AND exited_at IS NULL

),

-- A truck can be at only one exclusive place at a time. After its last enter at a place, its next enter is elsewhere.
enters AS (

    SELECT
        device_fence_key,
        occurred_at,
        event_id,
        LEAD(event_id) OVER (
            PARTITION BY device_id ORDER BY occurred_at, event_id, geofence_tag, geofence_external_id
        ) AS contradicted_by_event_id,
        LEAD(occurred_at) OVER (
            PARTITION BY device_id ORDER BY occurred_at, event_id, geofence_tag, geofence_external_id
        ) AS exit_inferred_at
    FROM {{ ref('stg_geofence_events') }}
    WHERE
        kind = 'enter'
        AND COALESCE(confidence, 3) >= {{ var('min_confidence') }}
        AND {{ is_one_of('geofence_tag', var('exclusive_tags')) }}

),

last_enters AS (

    SELECT * FROM enters
    QUALIFY ROW_NUMBER() OVER (PARTITION BY device_fence_key ORDER BY occurred_at DESC, event_id DESC) = 1

)

SELECT
    {{ key_of(['open_visits.device_fence_key', 'open_visits.entered_event_id']) }} AS visit_key,
    open_visits.device_fence_key,
    open_visits.device_id,
    open_visits.geofence_tag,
    open_visits.geofence_external_id,
    open_visits.entered_at,
    open_visits.entered_event_id,
    open_visits.last_seen_at,
    last_enters.contradicted_by_event_id,
    last_enters.exit_inferred_at
FROM open_visits
LEFT JOIN last_enters ON open_visits.device_fence_key = last_enters.device_fence_key
