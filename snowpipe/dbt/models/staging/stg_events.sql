{{ config(
    materialized='incremental',
    incremental_strategy='restate',
    cluster_by=['event_date'],
    meta={'restates': 'events'}
) }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('new_events') }}
-- depends_on: {{ ref('touched_events') }}
-- depends_on: {{ ref('typed_events') }}

WITH deliveries AS (

    SELECT
        event_key,
        event_id,
        event_type,
        occurred_at,
        event_date,
        app_server_created_at,
        received_at,
        device_id,
        user_id,
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
    FROM {{ arrivals() }}
    {% if is_incremental() %}
        UNION ALL
        SELECT
            event_key,
            event_id,
            event_type,
            occurred_at,
            event_date,
            app_server_created_at,
            received_at,
            device_id,
            user_id,
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
        FROM {{ this }}
        WHERE
            {{ among('event_date', ref('touched_events'), 'event_date') }}
            AND event_key IN (SELECT event_key FROM {{ ref('new_events') }})
    {% endif %}

)

SELECT *
FROM deliveries
QUALIFY
    ROW_NUMBER() OVER (
        PARTITION BY event_key ORDER BY received_at, file_name, file_row_number, scanned_at
    ) = 1
