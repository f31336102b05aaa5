-- The version of fleet_daily.sql for the table that `milkrun warehouse load --to sqlite:///…` fills.
WITH deliveries AS (
    SELECT
        *,
        ROW_NUMBER() OVER (
            PARTITION BY device_id, event_id ORDER BY file_modified_at, file_name, file_row_number
        ) AS delivery
    FROM events
    WHERE invalid_code IS NULL
)

SELECT
    DATE(occurred_us / 1000000, 'unixepoch') AS event_date,
    device_id,
    COUNT(*) AS events,
    SUM(is_replayed) AS replayed_events,
    STRFTIME('%Y-%m-%d %H:%M:%S', MIN(occurred_us) / 1000000, 'unixepoch')
    || PRINTF('.%06d', MIN(occurred_us) % 1000000) AS first_event_at,
    STRFTIME('%Y-%m-%d %H:%M:%S', MAX(occurred_us) / 1000000, 'unixepoch')
    || PRINTF('.%06d', MAX(occurred_us) % 1000000) AS last_event_at,
    SUM(event_type = 'pickup.completed') AS pickups,
    COALESCE(SUM(CASE WHEN event_type = 'pickup.completed' THEN litres END), 0) AS litres
FROM deliveries
WHERE delivery = 1 AND device_id IS NOT NULL
GROUP BY event_date, device_id
ORDER BY event_date, device_id;
