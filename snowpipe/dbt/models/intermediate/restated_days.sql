-- The days whose rows in the daily marts the new events may change, computed before geofence_visits changes: the days
-- of the events, of every restated visit before and after, and of visits during which a new event happened. A run that
-- failed may have removed visits whose days no event names any more, so its days stay until a run is complete
-- (`read_through`).
{{ config(materialized='table') }}

-- depends_on: {{ ref('high_water_mark') }}
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
    SELECT entered_date FROM {{ ref('restated_visits') }}
    UNION ALL
    SELECT CAST(last_event_at AS DATE) FROM {{ ref('restated_visits') }}
    {% if not reads_everything() %}
        {% if keeps_read_through() %}
            UNION ALL
            SELECT event_date FROM {{ this }}
            WHERE read_through > {{ mark('completed_through') }}
        {% endif %}
        UNION ALL
        SELECT CAST(restates_from AS DATE) FROM {{ ref('visit_windows') }}
        {% set late = values_of(
            'SELECT DISTINCT restates_from::DATE::VARCHAR || \'/\' || reads_until::DATE::VARCHAR FROM '
            ~ ref('visit_windows') ~ ' WHERE is_late'
        ) %}
        {% set late_days = {} %}
        {% do days_between(late, late_days) %}
        UNION ALL
        SELECT visits.entered_date
        FROM {{ relation_of('geofence_visits') }} AS visits
        INNER JOIN {{ ref('visit_windows') }} AS windows ON visits.device_fence_key = windows.device_fence_key
        WHERE
            windows.is_late
            AND {{ one_of_days('visits.entered_date', late_days.keys() | sort) }}
            AND visits.entered_at >= windows.restates_from
            AND visits.entered_at < windows.ends_at
        {% set changed = values_of(
            'SELECT DISTINCT event_date::VARCHAR FROM ' ~ ref('touched_days') ~ ' WHERE is_changed'
        ) %}
        {% if changed %}
            UNION ALL
            SELECT visits.entered_date
            FROM {{ relation_of('geofence_visits') }} AS visits
            INNER JOIN touched
                ON
                    visits.device_id = touched.device_id
                    AND visits.entered_date < touched.event_date
                    AND visits.exited_at >= CAST(touched.event_date AS TIMESTAMP_NTZ)
            WHERE
                visits.exited_at >= '{{ changed[0][:10] }}'::TIMESTAMP_NTZ
                AND visits.entered_date < '{{ changed[-1][:10] }}'::DATE
        {% endif %}
    {% endif %}

)

SELECT DISTINCT
    event_date,
    {{ mark('scanned_through') }} AS read_through
FROM days
WHERE event_date IS NOT NULL
