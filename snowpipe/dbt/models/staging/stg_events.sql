{{ config(materialized='incremental', unique_key='event_id', incremental_strategy='merge') }}

WITH source AS (

    SELECT * FROM {{ source('raw', 'events') }}
    {% if is_incremental() %}
        WHERE {{ newly_loaded('scanned_at', this, 'scanned_at') }}
    {% endif %}

),

typed AS (

    SELECT
        payload:_id::VARCHAR AS event_id,
        payload:type::VARCHAR AS event_type,
        {{ instant('payload:createdAt::VARCHAR') }} AS occurred_at,
        {{ instant('payload:actualCreatedAt::VARCHAR') }} AS app_server_created_at,
        file_modified_at AS received_at,
        COALESCE(payload:user.deviceId::VARCHAR, payload:deviceId::VARCHAR) AS device_id,
        COALESCE(payload:user.userId::VARCHAR, payload:user._id::VARCHAR) AS user_id,
        TRY_CAST(payload:live::VARCHAR AS BOOLEAN) AS is_live,
        TRY_CAST(payload:replayed::VARCHAR AS BOOLEAN) AS is_replayed,
        TRY_CAST(payload:location.coordinates[1]::VARCHAR AS FLOAT) AS latitude,
        TRY_CAST(payload:location.coordinates[0]::VARCHAR AS FLOAT) AS longitude,
        TRY_CAST(payload:locationAccuracy::VARCHAR AS FLOAT) AS location_accuracy_metres,
        payload:metadata AS metadata,
        {{ content_hash('payload') }} AS content_hash,
        file_name,
        file_row_number,
        scanned_at,
        TRUE AS is_new
    FROM source

),

deliveries AS (

    SELECT * FROM typed
    {% if is_incremental() %}
        UNION ALL
        SELECT
            *,
            FALSE AS is_new
        FROM {{ this }}
        WHERE event_id IN (SELECT event_id FROM typed)
    {% endif %}

),

first_delivery AS (

    SELECT * FROM deliveries
    QUALIFY
        ROW_NUMBER() OVER (
            PARTITION BY event_id ORDER BY received_at, file_name, file_row_number, is_new
        ) = 1

)

SELECT
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
