-- What each device sent, by the UTC day of its own clock, straight from RAW.EVENTS: MARTS.FLEET_DAILY's counts
-- without dbt (kilometres and visits are only there). One row per day and device.
WITH deliveries AS (
    SELECT
        payload:_id::VARCHAR AS event_id,
        payload:type::VARCHAR AS event_type,
        CONVERT_TIMEZONE(
            'UTC',
            TRY_CAST(REGEXP_REPLACE(UPPER(payload:createdAt::VARCHAR), '([.][0-9]{6})[0-9]+', '\\1') AS TIMESTAMP_TZ)
        )::TIMESTAMP_NTZ AS occurred_at,
        COALESCE(payload:user.deviceId::VARCHAR, payload:deviceId::VARCHAR) AS device_id,
        TRY_CAST(payload:replayed::VARCHAR AS BOOLEAN) AS is_replayed,
        IFF(TRY_CAST(payload:metadata.litres::VARCHAR AS FLOAT) BETWEEN 0 AND 1000000, TRY_CAST(payload:metadata.litres::VARCHAR AS FLOAT), NULL) AS litres
    FROM RAW.EVENTS
    QUALIFY ROW_NUMBER() OVER (PARTITION BY event_id ORDER BY file_modified_at, file_name, file_row_number) = 1
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
