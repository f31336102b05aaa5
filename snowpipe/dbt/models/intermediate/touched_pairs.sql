-- The (device, fence) pairs whose visits the new events may change, with the time range of these events and the pair's
-- last visit before this run. Events that arrive in order continue that visit; `is_late` means that the pair already had
-- an event at or after the time of the first new event.
{{ config(materialized='table') }}

-- depends_on: {{ ref('high_water_mark') }}

WITH several AS (

    SELECT
        event_key,
        MAX(IFF(has_conflict, 1, 0)) = 1 AS has_conflict,
        CAST(MIN(event_date) AS TIMESTAMP_NTZ) AS first_day_at,
        CAST(DATEADD('day', 1, MAX(event_date)) AS TIMESTAMP_NTZ) AS last_day_ends_at
    FROM {{ ref('touched_events') }}
    GROUP BY event_key

),

pairs AS (

    SELECT
        arrived.device_fence_key,
        -- An event that arrived with different contents may have happened at any time on the days of
        -- these contents.
        MIN(IFF(several.has_conflict, several.first_day_at, arrived.occurred_at)) AS touched_from,
        MAX(IFF(several.has_conflict, several.last_day_ends_at, arrived.occurred_at)) AS touched_until
    FROM {{ ref('stg_geofence_events') }} AS arrived
    LEFT JOIN several ON arrived.event_key = several.event_key
    WHERE {{ of_this_run() }}
    GROUP BY arrived.device_fence_key

)

SELECT
    pairs.device_fence_key,
    pairs.touched_from,
    pairs.touched_until,
    {% if reads_everything() %}
        FALSE AS is_late
    FROM pairs
    WHERE FALSE
    {% else %}
        COALESCE(heads.last_event_at >= pairs.touched_from, FALSE) AS is_late,
        GREATEST(COALESCE(heads.last_event_at, pairs.touched_until), pairs.touched_until) AS last_event_at,
        heads.first_entered_at,
        {% for column in head_columns() %}heads.{{ column }}{{ ', ' if not loop.last }}{% endfor %}
    FROM pairs
    LEFT JOIN {{ relation_of('geofence_pair_heads') }} AS heads ON pairs.device_fence_key = heads.device_fence_key
    {% endif %}
