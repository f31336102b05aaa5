-- The version of daily_farm_collections.sql for the table that `milkrun warehouse load --to sqlite:///…` fills.
-- Its result is the same. The loader has parsed the payload into columns; rows that are not events have an invalid_code.
WITH deliveries AS (
    SELECT * FROM events
    WHERE invalid_code IS NULL
),

contents AS (
    SELECT
        *,
        CASE
            WHEN event_type IN ('user.entered_geofence', 'user_entered_geofence') THEN 0
            WHEN event_type IN ('user.dwelled_in_geofence', 'user_dwelled_in_geofence') THEN 1
            ELSE 2
        END AS kind,
        ROW_NUMBER() OVER (
            PARTITION BY device_id, geofence_tag, geofence_external_id, event_id
            ORDER BY occurred_us, event_type, duration_minutes NULLS FIRST, confidence NULLS FIRST
        ) AS content
    FROM deliveries
    WHERE
        geofence_tag IN ('farm', 'stop')
        AND event_type IN (
            'user.entered_geofence', 'user.dwelled_in_geofence', 'user.exited_geofence',
            'user_entered_geofence', 'user_dwelled_in_geofence', 'user_exited_geofence'
        )
),

numbered AS (
    SELECT
        *,
        SUM(kind = 0) OVER (
            PARTITION BY device_id, geofence_tag, geofence_external_id ORDER BY occurred_us, kind, event_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS crossing
    FROM contents
    WHERE content = 1
),

within AS (
    SELECT
        *,
        SUM(kind = 2) OVER (
            PARTITION BY device_id, geofence_tag, geofence_external_id, crossing ORDER BY occurred_us, kind, event_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) - (kind = 2) AS exits_before
    FROM numbered
    WHERE crossing > 0
),

crossings AS (
    SELECT
        device_id,
        geofence_tag,
        geofence_external_id,
        crossing,
        MAX(CASE WHEN kind = 0 THEN occurred_us END) AS entered_us,
        MAX(CASE WHEN kind = 2 THEN occurred_us END) AS exited_us
    FROM within
    WHERE exits_before = 0
    GROUP BY device_id, geofence_tag, geofence_external_id, crossing
),

gaps AS (
    SELECT
        *,
        LAG(exited_us) OVER (
            PARTITION BY device_id, geofence_tag, geofence_external_id ORDER BY crossing
        ) AS exited_before_us,
        MAX(crossing) OVER (PARTITION BY device_id, geofence_tag, geofence_external_id) AS last_crossing
    FROM crossings
),

merged AS (
    SELECT
        *,
        SUM(CASE WHEN entered_us <= exited_before_us + 120000000 THEN 0 ELSE 1 END) OVER (
            PARTITION BY device_id, geofence_tag, geofence_external_id ORDER BY crossing
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS visit
    FROM gaps
),

-- Only the last crossing of a visit can lack an exit.
visits AS (
    SELECT
        device_id,
        geofence_tag,
        geofence_external_id,
        visit,
        MIN(entered_us) AS entered_us,
        CASE WHEN COUNT(exited_us) = COUNT(*) THEN MAX(exited_us) END AS exited_us,
        MAX(crossing) < MAX(last_crossing) AS is_followed
    FROM merged
    GROUP BY device_id, geofence_tag, geofence_external_id, visit
),

first_deliveries AS (
    SELECT
        *,
        ROW_NUMBER() OVER (
            PARTITION BY device_id, event_id ORDER BY file_modified_at, file_name, file_row_number
        ) AS delivery
    FROM deliveries
),

pickups AS (
    SELECT
        visits.device_id,
        visits.geofence_tag,
        visits.geofence_external_id,
        visits.visit,
        COUNT(*) AS pickups,
        SUM(first_deliveries.litres) AS litres
    FROM visits
    INNER JOIN first_deliveries
        ON
            visits.device_id = first_deliveries.device_id
            AND first_deliveries.occurred_us BETWEEN visits.entered_us AND visits.exited_us
    WHERE first_deliveries.event_type = 'pickup.completed' AND first_deliveries.delivery = 1
    GROUP BY visits.device_id, visits.geofence_tag, visits.geofence_external_id, visits.visit
)

SELECT
    DATE(visits.entered_us / 1000000, 'unixepoch') AS collection_date,
    visits.geofence_tag,
    visits.geofence_external_id,
    COUNT(*) AS visits,
    COUNT(DISTINCT visits.device_id) AS devices,
    COALESCE(SUM(pickups.pickups), 0) AS pickups,
    COALESCE(SUM(pickups.litres), 0) AS litres,
    COALESCE(SUM(visits.exited_us - visits.entered_us), 0) / 1000000.0 AS dwell_seconds,
    SUM(visits.exited_us IS NULL AND visits.is_followed) AS missed_exits,
    SUM(visits.exited_us IS NULL AND NOT visits.is_followed) AS open_visits
FROM visits
LEFT JOIN pickups
    ON
        visits.device_id = pickups.device_id
        AND visits.geofence_tag = pickups.geofence_tag
        AND visits.geofence_external_id = pickups.geofence_external_id
        AND visits.visit = pickups.visit
GROUP BY collection_date, visits.geofence_tag, visits.geofence_external_id
ORDER BY collection_date, visits.geofence_tag, visits.geofence_external_id;
