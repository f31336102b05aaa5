-- The only model that reads events from RAW.EVENTS, so that all models of a run use the same rows.
{{ config(materialized='table') }}

-- depends_on: {{ ref('high_water_mark') }}

SELECT
    event_key,
    event_id,
    event_type,
    kind,
    occurred_at,
    CAST(occurred_at AS DATE) AS event_date,
    app_server_created_at,
    received_at,
    DATE_TRUNC('hour', received_at) AS received_hour,
    device_id,
    user_id,
    geofence_tag,
    geofence_external_id,
    duration_minutes,
    confidence,
    is_live,
    is_replayed,
    latitude,
    longitude,
    location_accuracy_metres,
    metadata,
    content_hash,
    file_name,
    file_row_number,
    scanned_at
FROM {{ ref('typed_events') }}
WHERE
    invalid_code IS NULL
    AND scanned_at > {{ mark('read_from') }}
    AND scanned_at <= {{ mark('scanned_through') }}
