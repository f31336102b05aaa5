{{ config(materialized='view') }}

WITH source AS (

    SELECT * FROM {{ source('raw', 'events') }}

),

typed AS (

    SELECT
        payload,
        payload:_id::VARCHAR AS event_id,
        payload:type::VARCHAR AS event_type,
        {{ crossing_kind('payload:type::VARCHAR') }} AS kind,
        {{ instant('payload:createdAt::VARCHAR') }} AS occurred_at,
        {{ instant('payload:actualCreatedAt::VARCHAR') }} AS app_server_created_at,
        COALESCE(payload:user.deviceId::VARCHAR, payload:deviceId::VARCHAR) AS device_id,
        COALESCE(payload:user.userId::VARCHAR, payload:user._id::VARCHAR) AS user_id,
        payload:geofence.tag::VARCHAR AS geofence_tag,
        payload:geofence.externalId::VARCHAR AS geofence_external_id,
        {{ number('payload:duration::VARCHAR', 0, var('max_duration_minutes')) }} AS duration_minutes,
        {{ number('payload:confidence::VARCHAR', 0, 3) }} AS confidence_number,
        {{ truth('payload:live::VARCHAR') }} AS is_live,
        {{ truth('payload:replayed::VARCHAR') }} AS is_replayed,
        -- A ping has its latitude and longitude in top-level fields.
        {{ number('COALESCE(payload:location.coordinates[1]::VARCHAR, payload:latitude::VARCHAR)', -90, 90) }}
            AS latitude,
        {{ number('COALESCE(payload:location.coordinates[0]::VARCHAR, payload:longitude::VARCHAR)', -180, 180) }}
            AS longitude,
        {{ number('COALESCE(payload:locationAccuracy::VARCHAR, payload:accuracy::VARCHAR)', '-1e8', '1e8') }}
            AS location_accuracy_metres,
        payload:metadata AS metadata,
        {{ content_hash('payload') }} AS content_hash,
        {{ received_hour('file_name', 'file_modified_at') }} AS received_hour,
        file_modified_at,
        file_name,
        file_row_number,
        scanned_at
    FROM source

)

SELECT
    payload,
    {{ event_key('device_id', 'user_id', 'event_id') }} AS event_key,
    event_id,
    event_type,
    kind,
    IFF({{ is_plausible('typed.occurred_at', 'received_hour') }}, typed.occurred_at, NULL) AS occurred_at,
    IFF({{ is_plausible('typed.app_server_created_at', 'received_hour') }}, typed.app_server_created_at, NULL)
        AS app_server_created_at,
    device_id,
    user_id,
    geofence_tag,
    geofence_external_id,
    duration_minutes,
    IFF(confidence_number = FLOOR(confidence_number), confidence_number, NULL)::INTEGER AS confidence,
    is_live,
    is_replayed,
    latitude,
    longitude,
    location_accuracy_metres,
    metadata,
    content_hash,
    file_modified_at AS received_at,
    file_name,
    file_row_number,
    scanned_at,
    CASE
        WHEN event_id IS NULL AND LEFT(COALESCE(TO_JSON(payload), ''), 1) <> '{' THEN 'not_an_object'
        WHEN event_id IS NULL THEN 'missing_id'
        WHEN LEFT(TO_JSON(payload:_id), 1) <> '"' THEN 'wrong_type'
        WHEN LENGTH(event_id) NOT BETWEEN 1 AND 128 THEN 'field_length'
        WHEN COALESCE(event_type, '') = '' THEN 'missing_type'
        WHEN typed.occurred_at IS NULL AND payload:createdAt::VARCHAR IS NULL THEN 'missing_created_at'
        WHEN typed.occurred_at IS NULL THEN 'invalid_created_at'
        WHEN NOT ({{ is_plausible('typed.occurred_at', 'received_hour') }})
            THEN IFF(typed.occurred_at < received_hour, 'created_at_too_old', 'created_at_in_future')
        WHEN kind IS NULL AND COALESCE(device_id, user_id, '') = '' THEN 'missing_identity'
        WHEN kind IS NOT NULL AND COALESCE(device_id, '') = '' THEN 'missing_device'
        WHEN kind IS NOT NULL AND (COALESCE(geofence_tag, '') = '' OR COALESCE(geofence_external_id, '') = '')
            THEN 'missing_geofence'
        WHEN kind IS NOT NULL AND confidence_number <> FLOOR(confidence_number) THEN 'wrong_type'
        WHEN kind IS NOT NULL AND confidence_number IS NULL AND payload:confidence::VARCHAR IS NOT NULL
            THEN 'out_of_range'
    END AS invalid_code
FROM typed
