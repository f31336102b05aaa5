{{ config(materialized='incremental', unique_key='geofence_event_key', incremental_strategy='merge') }}

WITH source AS (

    SELECT * FROM {{ source('raw', 'events') }}
    WHERE
        {{ crossing_kind('payload:type::VARCHAR') }} IS NOT NULL
        {% if is_incremental() %}
            AND {{ newly_loaded('scanned_at', this, 'loaded_at') }}
        {% endif %}

),

typed AS (

    SELECT
        COALESCE(payload:user.deviceId::VARCHAR, payload:deviceId::VARCHAR) AS device_id,
        payload:geofence.tag::VARCHAR AS geofence_tag,
        payload:geofence.externalId::VARCHAR AS geofence_external_id,
        payload:_id::VARCHAR AS event_id,
        payload:type::VARCHAR AS event_type,
        {{ instant('payload:createdAt::VARCHAR') }} AS occurred_at,
        TRY_CAST(payload:duration::VARCHAR AS FLOAT) AS duration_minutes,
        TRY_CAST(payload:confidence::VARCHAR AS INTEGER) AS confidence,
        scanned_at AS loaded_at
    FROM source

),

keyed AS (

    SELECT
        {{ key_of(['device_id', 'geofence_tag', 'geofence_external_id', 'event_id']) }} AS geofence_event_key,
        {{ key_of(['device_id', 'geofence_tag', 'geofence_external_id']) }} AS device_fence_key,
        {{ crossing_kind('event_type') }} AS kind,
        *
    FROM typed

),

contents AS (

    SELECT
        geofence_event_key,
        device_fence_key,
        device_id,
        geofence_tag,
        geofence_external_id,
        event_id,
        event_type,
        kind,
        occurred_at,
        duration_minutes,
        confidence,
        loaded_at,
        TRUE AS is_new
    FROM keyed
    {% if is_incremental() %}
        UNION ALL
        SELECT
            *,
            FALSE AS is_new
        FROM {{ this }}
        WHERE geofence_event_key IN (SELECT geofence_event_key FROM keyed)
    {% endif %}

),

least_content AS (

    SELECT * FROM contents
    QUALIFY
        ROW_NUMBER() OVER (
            PARTITION BY geofence_event_key
            ORDER BY
                occurred_at,
                event_type,
                duration_minutes NULLS FIRST,
                confidence NULLS FIRST,
                is_new,
                loaded_at
        ) = 1

)

SELECT
    geofence_event_key,
    device_fence_key,
    device_id,
    geofence_tag,
    geofence_external_id,
    event_id,
    event_type,
    kind,
    occurred_at,
    duration_minutes,
    confidence,
    loaded_at
FROM least_content
WHERE is_new
