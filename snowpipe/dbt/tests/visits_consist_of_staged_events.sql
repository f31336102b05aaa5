{%- set days = {} %}
{%- set stays %}
    SELECT DISTINCT
        entered_date::VARCHAR || '/' || entered_date::VARCHAR
    FROM {{ ref('geofence_visits') }}
    WHERE {{ restated_part('geofence_visits') }}
    UNION
    SELECT DISTINCT
        exited_at::DATE::VARCHAR || '/' || exited_at::DATE::VARCHAR
    FROM {{ ref('geofence_visits') }}
    WHERE {{ restated_part('geofence_visits') }} AND exited_at IS NOT NULL
{%- endset %}
{%- do days_between(values_of(stays), days) %}

WITH visits AS (

    SELECT * FROM {{ ref('geofence_visits') }}
    WHERE {{ restated_part('geofence_visits') }}

),

events AS (

    SELECT {{ event_key('device_id', 'NULL', 'entered_event_id') }} AS event_key
    FROM visits
    UNION
    SELECT {{ event_key('device_id', 'NULL', 'exited_event_id') }} AS event_key
    FROM visits
    WHERE exited_event_id IS NOT NULL

)

SELECT events.event_key
FROM events
LEFT JOIN (
    SELECT event_key FROM {{ ref('stg_geofence_events') }}
    WHERE {{ one_of_days('event_date', days.keys() | sort) }}
) AS staged
    ON events.event_key = staged.event_key
WHERE staged.event_key IS NULL
