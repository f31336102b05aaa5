-- Totals per device and UTC day, by the device's clock, computed from RAW.EVENTS without dbt. Unlike MARTS.FLEET_DAILY,
-- the result has no columns about visits and kilometres, but the number of pickups. One row per day and device.
-- Invalid rows (STAGING.INVALID_ROWS) are omitted, such as rows without an id or with an implausible time.
WITH fields AS (
    SELECT
        IFF(LEFT(TO_JSON(payload:_id), 1) = '"', payload:_id::VARCHAR, NULL) AS event_id,
        payload:type::VARCHAR AS event_type,
        payload:createdAt::VARCHAR AS created_at,
        COALESCE(payload:user.deviceId::VARCHAR, payload:deviceId::VARCHAR) AS device_id,
        payload:geofence.tag::VARCHAR AS geofence_tag,
        payload:geofence.externalId::VARCHAR AS geofence_external_id,
        payload:confidence::VARCHAR AS confidence_text,
        payload:replayed::VARCHAR AS replayed,
        payload:metadata.litres::VARCHAR AS litres_text,
        file_modified_at,
        file_name,
        file_row_number
    FROM RAW.EVENTS
),

typed AS (
    SELECT
        event_id,
        event_type,
        IFF(
            REGEXP_LIKE(
                created_at,
                '^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.,][0-9]+)?)?'
                || ' ?([Zz]|[-+−]([01][0-9]|2[0-3])(:?[0-5][0-9])?)$'
            ),
            CONVERT_TIMEZONE(
                'UTC',
                TRY_CAST(
                    SUBSTR(created_at, 1, 10) || 'T' || REGEXP_REPLACE(REGEXP_REPLACE(REGEXP_REPLACE(REGEXP_REPLACE(
                        REPLACE(SUBSTR(REPLACE(REPLACE(UPPER(created_at), ',', '.'), '−', '-'), 12), ' ', ''),
                        '^([0-9]{2}:[0-9]{2})([-+Z])', '\\1:00\\2'
                    ), '([.][0-9]{6})[0-9]+', '\\1'),
                    '([-+][0-9]{2})([0-9]{2})$', '\\1:\\2'), '([-+][0-9]{2})$', '\\1:00') AS TIMESTAMP_TZ
                )
            )::TIMESTAMP_NTZ,
            NULL
        ) AS occurred_at,
        COALESCE(
            TRY_CAST(
                REGEXP_REPLACE(
                    REGEXP_SUBSTR(file_name, 'dt=[0-9]{4}-[0-9]{2}-[0-9]{2}/hh=[0-9]{2}/'),
                    'dt=(.{10})/hh=(.{2})/', '\\1 \\2:00:00'
                ) AS TIMESTAMP_NTZ
            ),
            file_modified_at
        ) AS received_hour,
        device_id,
        geofence_tag,
        geofence_external_id,
        confidence_text,
        IFF(
            REGEXP_LIKE(confidence_text, '^[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?$')
            AND TRY_CAST(confidence_text AS FLOAT) BETWEEN 0 AND 3,
            TRY_CAST(confidence_text AS FLOAT), NULL
        ) AS confidence,
        COALESCE(LOWER(replayed) IN ('true', 't', 'yes', 'y', 'on', '1'), FALSE) AS is_replayed,
        IFF(
            REGEXP_LIKE(litres_text, '^[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?$')
            AND TRY_CAST(litres_text AS FLOAT) BETWEEN 0 AND 1000000,
            TRY_CAST(litres_text AS FLOAT), NULL
        ) AS litres,
        file_modified_at,
        file_name,
        file_row_number
    FROM fields
),

deliveries AS (
    SELECT * FROM typed
    WHERE
        LENGTH(event_id) BETWEEN 1 AND 128
        AND LENGTH(event_type) > 0
        AND (
            event_type NOT IN (
                'user.entered_geofence', 'user.dwelled_in_geofence', 'user.exited_geofence',
                'user_entered_geofence', 'user_dwelled_in_geofence', 'user_exited_geofence'
            )
            OR (
                LENGTH(device_id) > 0 AND LENGTH(geofence_tag) > 0 AND LENGTH(geofence_external_id) > 0
                AND (confidence_text IS NULL OR confidence = FLOOR(confidence))
            )
        )
        AND occurred_at BETWEEN DATEADD('day', -400, received_hour) AND DATEADD('hour', 25, received_hour)
    -- The first delivery of each event; events without a device are omitted below.
    QUALIFY
        ROW_NUMBER() OVER (
            PARTITION BY device_id, event_id ORDER BY file_modified_at, file_name, file_row_number
        ) = 1
)

SELECT
    occurred_at::DATE AS event_date,
    device_id,
    COUNT(*) AS events,
    COUNT_IF(is_replayed) AS replayed_events,
    MIN(occurred_at) AS first_event_at,
    MAX(occurred_at) AS last_event_at,
    SUM(IFF(event_type = 'pickup.completed', 1, 0)) AS pickups,
    COALESCE(SUM(IFF(event_type = 'pickup.completed', litres, 0)), 0) AS litres
FROM deliveries
WHERE device_id IS NOT NULL
GROUP BY occurred_at::DATE, device_id
ORDER BY event_date, device_id;
