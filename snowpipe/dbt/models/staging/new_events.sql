-- The only model through which a run reads events from RAW.EVENTS, so that all models see the same rows: those after
-- the mark of the last complete run, and those within the look-back that no complete run has read. Invalid rows
-- (invalid_code is not null) have no event_key.
{{ config(materialized='table') }}

-- depends_on: {{ ref('high_water_mark') }}

{%- set read_rows = adapter.get_relation(this.database, this.schema, 'read_rows') if execute and not reads_everything() %}

SELECT
    IFF(invalid_code IS NULL, event_key, NULL) AS event_key,
    invalid_code,
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
FROM {{ ref('typed_events') }} AS events
WHERE
    scanned_at > {{ mark('read_from') }}
    AND scanned_at <= {{ mark('scanned_through') }}
    {% if read_rows %}
        AND NOT EXISTS (
            SELECT 1
            FROM {{ read_rows }} AS read_before
            WHERE
                read_before.file_name = events.file_name
                AND read_before.file_row_number = events.file_row_number
                AND read_before.scanned_at = events.scanned_at
        )
    {% endif %}
