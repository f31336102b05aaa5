{{ config(materialized='incremental', unique_key='geofence_event_key', incremental_strategy='merge') }}

WITH typed AS (

    SELECT
        device_id,
        geofence_tag,
        geofence_external_id,
        event_key,
        event_id,
        event_type,
        kind,
        occurred_at,
        duration_minutes,
        confidence,
        scanned_at AS loaded_at
    FROM {{ ref('typed_events') }}
    WHERE
        kind IS NOT NULL
        AND invalid_code IS NULL
        {% if is_incremental() %}
            AND {{ newly_loaded('scanned_at', this, 'loaded_at') }}
        {% endif %}

),

keyed AS (

    SELECT
        {{ key_of(['device_id', 'geofence_tag', 'geofence_external_id', 'event_id']) }} AS geofence_event_key,
        {{ key_of(['device_id', 'geofence_tag', 'geofence_external_id']) }} AS device_fence_key,
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
        event_key,
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
    event_key,
    event_id,
    event_type,
    kind,
    occurred_at,
    duration_minutes,
    confidence,
    loaded_at
FROM least_content
WHERE is_new
