-- The part of a touched pair's history that is computed again: from the last visit that began before the new events to
-- the second visit that began after them. The start of that visit cannot change, because the end of the visit before it
-- depends only on events that no new event touches. A visit that ended before the new events is not read again: its
-- enter, last dwell and exit represent it (`continues`).
{{ config(materialized='table') }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('touched_pairs') }}

{%- set late_days = [] if reads_everything() else values_of(
    "SELECT DISTINCT touched_from::DATE::VARCHAR FROM " ~ ref('touched_pairs') ~ " WHERE is_late"
    ~ " UNION SELECT DISTINCT touched_until::DATE::VARCHAR FROM " ~ ref('touched_pairs') ~ " WHERE is_late"
) %}
{%- set reach = days_to_look_around(late_days) %}

{% if reads_everything() %}

SELECT
    device_fence_key,
    touched_from,
    FALSE AS is_late,
    FALSE AS continues,
    touched_from AS restates_from,
    '' AS restates_from_event_id,
    touched_from AS reads_from,
    touched_from AS reads_until,
    touched_from AS ends_at
FROM {{ ref('touched_pairs') }}
WHERE FALSE

{% else %}

WITH near AS (

    {{ visits_near(late_days, reach) }}

),

before AS (

    SELECT
        device_fence_key,
        entered_at,
        entered_event_id,
        last_event_at
    FROM near
    WHERE entered_at < touched_from
    QUALIFY
        ROW_NUMBER() OVER (PARTITION BY device_fence_key ORDER BY entered_at DESC, entered_event_id DESC) = 1

),

-- The start of the second visit after the new events.
after AS (

    SELECT
        device_fence_key,
        entered_at
    FROM near
    WHERE entered_at > touched_until
    GROUP BY device_fence_key, entered_at
    QUALIFY ROW_NUMBER() OVER (PARTITION BY device_fence_key ORDER BY entered_at) = 2

),

late AS (

    SELECT
        pairs.device_fence_key,
        pairs.touched_from,
        COALESCE(before.last_event_at < pairs.touched_from, FALSE) AS continues,
        COALESCE(before.entered_at, pairs.touched_from) AS restates_from,
        COALESCE(before.entered_event_id, '') AS restates_from_event_id,
        pairs.last_event_at,
        COALESCE(after.entered_at, '9999-12-31'::TIMESTAMP_NTZ) AS ends_at
    FROM {{ ref('touched_pairs') }} AS pairs
    LEFT JOIN before ON pairs.device_fence_key = before.device_fence_key
    LEFT JOIN after ON pairs.device_fence_key = after.device_fence_key
    WHERE pairs.is_late

)

SELECT
    device_fence_key,
    touched_from,
    TRUE AS is_late,
    continues,
    restates_from,
    restates_from_event_id,
    IFF(continues, touched_from, restates_from) AS reads_from,
    LEAST(last_event_at, ends_at) AS reads_until,
    ends_at
FROM late
UNION ALL
SELECT
    pairs.device_fence_key,
    pairs.touched_from,
    FALSE AS is_late,
    heads.entered_at IS NOT NULL AS continues,
    COALESCE(heads.entered_at, pairs.touched_from) AS restates_from,
    COALESCE(heads.entered_event_id, '') AS restates_from_event_id,
    pairs.touched_from AS reads_from,
    pairs.last_event_at AS reads_until,
    '9999-12-31'::TIMESTAMP_NTZ AS ends_at
FROM {{ ref('touched_pairs') }} AS pairs
LEFT JOIN {{ relation_of('geofence_pair_heads') }} AS heads ON pairs.device_fence_key = heads.device_fence_key
WHERE NOT pairs.is_late

{% endif %}
