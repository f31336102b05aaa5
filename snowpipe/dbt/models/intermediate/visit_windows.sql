-- The part of a touched pair's history that is computed again: from the last visit that began before the new events to
-- the second visit that began after them. The start of that visit cannot change, because the end of the visit before it
-- depends only on events that happened after the new ones. If all events of the window's first visit are older than the
-- new events, they are not read again; the visit's enter, last dwell and exit represent them (`continues`).
{{ config(materialized='table') }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('touched_pairs') }}
-- depends_on: {{ ref('late_visits') }}

{% if reads_everything() %}

SELECT device_fence_key FROM {{ ref('touched_pairs') }}

{% else %}

WITH before AS (

    SELECT * FROM {{ ref('late_visits') }}
    WHERE entered_at < touched_from
    QUALIFY
        ROW_NUMBER() OVER (PARTITION BY device_fence_key ORDER BY entered_at DESC, entered_event_id DESC) = 1

),

-- The start of the second visit after the new events.
after AS (

    SELECT
        device_fence_key,
        entered_at
    FROM {{ ref('late_visits') }}
    WHERE entered_at > touched_until
    GROUP BY device_fence_key, entered_at
    QUALIFY ROW_NUMBER() OVER (PARTITION BY device_fence_key ORDER BY entered_at) = 2

),

pairs AS (

    SELECT
        pairs.device_fence_key,
        pairs.touched_from,
        pairs.is_late,
        pairs.last_event_at,
        COALESCE(after.entered_at, '9999-12-31'::TIMESTAMP_NTZ) AS ends_at,
        {% for column in head_columns() %}
            IFF(pairs.is_late, before.{{ column }}, pairs.{{ column }}) AS {{ column }}{{ ',' if not loop.last }}
        {% endfor %}
    FROM {{ ref('touched_pairs') }} AS pairs
    LEFT JOIN before ON pairs.device_fence_key = before.device_fence_key
    LEFT JOIN after ON pairs.device_fence_key = after.device_fence_key

)

SELECT
    *,
    COALESCE(visit_last_event_at < touched_from, FALSE) AS continues,
    COALESCE(entered_at, touched_from) AS restates_from,
    COALESCE(entered_event_id, '') AS restates_from_event_id,
    IFF(visit_last_event_at < touched_from, touched_from, COALESCE(entered_at, touched_from)) AS reads_from,
    LEAST(last_event_at, ends_at) AS reads_until
FROM pairs

{% endif %}
