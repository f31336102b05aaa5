-- The days whose rows in the daily marts the new events may change, computed before geofence_visits changes. These are
-- the days of the new events, the days of every restated visit before and after the change, and the days of visits
-- during which a new event happened. A run that failed may have removed visits from days that no event refers to any
-- more, so its days are kept until a run is complete (`read_through`).
{{ config(materialized='table') }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('late_visits') }}
-- depends_on: {{ ref('visit_windows') }}

WITH touched AS (

    SELECT DISTINCT
        event_date,
        device_id
    FROM {{ ref('touched_days') }}
    WHERE is_changed

),

days AS (

    SELECT event_date FROM touched
    UNION ALL
    SELECT IFF(moments.is_first, visits.entered_date, CAST(visits.last_event_at AS DATE))
    FROM {{ ref('visits_by_rule') }} AS visits
    CROSS JOIN (SELECT TRUE AS is_first UNION ALL SELECT FALSE) AS moments
    {% if not reads_everything() %}
        {% if keeps_read_through() %}
            UNION ALL
            SELECT event_date FROM {{ this }}
            WHERE read_through > {{ mark('completed_through') }}
        {% endif %}
        UNION ALL
        SELECT COALESCE(visits.entered_date, CAST(windows.restates_from AS DATE))
        FROM {{ ref('visit_windows') }} AS windows
        LEFT JOIN {{ ref('late_visits') }} AS visits
            ON
                windows.device_fence_key = visits.device_fence_key
                AND visits.entered_at >= windows.restates_from
                AND visits.entered_at < windows.ends_at
        {% set changed = values_of(
            'SELECT DISTINCT event_date::VARCHAR FROM ' ~ ref('touched_days') ~ ' WHERE is_changed'
        ) %}
        {% if changed %}
            -- The days of visits during which an event of a later day happened, because fleet_daily contains the
            -- duration of each day's visits.
            UNION ALL
            SELECT stored.event_date
            FROM {{ relation_of('fleet_daily') }} AS stored
            INNER JOIN touched
                ON
                    stored.device_id = touched.device_id
                    AND stored.event_date < touched.event_date
                    AND stored.last_exited_at >= CAST(touched.event_date AS TIMESTAMP_NTZ)
            WHERE
                stored.last_exited_at >= '{{ changed[0][:10] }}'::TIMESTAMP_NTZ
                AND stored.event_date < '{{ changed[-1][:10] }}'::DATE
        {% endif %}
    {% endif %}

)

SELECT DISTINCT
    event_date,
    {{ mark('scanned_through') }} AS read_through
FROM days
WHERE event_date IS NOT NULL
