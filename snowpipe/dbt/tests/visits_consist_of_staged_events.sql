WITH events AS (

    SELECT {{ event_key('device_id', 'NULL', 'entered_event_id') }} AS event_key
    FROM {{ ref('geofence_visits') }}
    UNION
    SELECT {{ event_key('device_id', 'NULL', 'exited_event_id') }} AS event_key
    FROM {{ ref('geofence_visits') }}
    WHERE exited_event_id IS NOT NULL

)

SELECT events.event_key
FROM events
LEFT JOIN {{ ref('stg_events') }} AS staged ON events.event_key = staged.event_key
WHERE staged.event_key IS NULL
