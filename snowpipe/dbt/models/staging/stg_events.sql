{{ config(materialized='incremental', unique_key='event_key', incremental_strategy='merge') }}

WITH typed AS (

    SELECT
        event_key,
        event_id,
        event_type,
        occurred_at,
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
        scanned_at,
        TRUE AS is_new
    FROM {{ ref('typed_events') }}
    WHERE
        invalid_code IS NULL
        {% if is_incremental() %}
            AND {{ newly_loaded('scanned_at', this, 'scanned_at') }}
        {% endif %}

),

deliveries AS (

    SELECT * FROM typed
    {% if is_incremental() %}
        UNION ALL
        SELECT
            *,
            FALSE AS is_new
        FROM {{ this }}
        WHERE event_key IN (SELECT event_key FROM typed)
    {% endif %}

),

first_delivery AS (

    SELECT * FROM deliveries
    QUALIFY
        ROW_NUMBER() OVER (
            PARTITION BY event_key ORDER BY received_at, file_name, file_row_number, is_new
        ) = 1

)

SELECT
    event_key,
    event_id,
    event_type,
    occurred_at,
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
FROM first_delivery
WHERE is_new
