-- Visits to fences where milk is collected, by UTC day, computed from RAW.EVENTS without dbt. The result has most
-- columns of MARTS.DAILY_FARM_COLLECTIONS. One row per day and fence. The visit rule is explained in
-- dbt/models/intermediate/visits_by_rule.sql. Invalid rows (STAGING.INVALID_ROWS) are omitted, such as rows without an
-- id or with an implausible time.
WITH fields AS (
    SELECT
        IFF(LEFT(TO_JSON(payload:_id), 1) = '"', payload:_id::VARCHAR, NULL) AS event_id,
        payload:type::VARCHAR AS event_type,
        payload:createdAt::VARCHAR AS created_at,
        COALESCE(payload:user.deviceId::VARCHAR, payload:deviceId::VARCHAR) AS device_id,
        payload:geofence.tag::VARCHAR AS geofence_tag,
        payload:geofence.externalId::VARCHAR AS geofence_external_id,
        payload:duration::VARCHAR AS duration,
        payload:confidence::VARCHAR AS confidence_text,
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
        IFF(
            REGEXP_LIKE(duration, '^[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?$')
            AND TRY_CAST(duration AS FLOAT) BETWEEN 0 AND 576000,
            TRY_CAST(duration AS FLOAT), NULL
        ) AS duration_minutes,
        IFF(
            REGEXP_LIKE(confidence_text, '^[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?$')
            AND TRY_CAST(confidence_text AS FLOAT) BETWEEN 0 AND 3,
            TRY_CAST(confidence_text AS FLOAT), NULL
        ) AS confidence,
        confidence_text,
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
        AND occurred_at BETWEEN DATEADD('day', -400, received_hour) AND DATEADD('hour', 25, received_hour)
),

events AS (
    SELECT
        *,
        CASE
            WHEN event_type IN ('user.entered_geofence', 'user_entered_geofence') THEN 0
            WHEN event_type IN ('user.dwelled_in_geofence', 'user_dwelled_in_geofence') THEN 1
            ELSE 2
        END AS kind
    FROM deliveries
    WHERE
        geofence_tag IN ('farm', 'stop')
        AND LENGTH(device_id) > 0
        AND LENGTH(geofence_external_id) > 0
        AND (confidence_text IS NULL OR confidence = FLOOR(confidence))
        AND event_type IN (
            'user.entered_geofence', 'user.dwelled_in_geofence', 'user.exited_geofence',
            'user_entered_geofence', 'user_dwelled_in_geofence', 'user_exited_geofence'
        )
    QUALIFY
        ROW_NUMBER() OVER (
            PARTITION BY device_id, geofence_tag, geofence_external_id, event_id
            ORDER BY occurred_at, event_type, duration_minutes NULLS FIRST, confidence NULLS FIRST
        ) = 1
),

numbered AS (
    SELECT
        *,
        SUM(IFF(kind = 0, 1, 0)) OVER (
            PARTITION BY device_id, geofence_tag, geofence_external_id ORDER BY occurred_at, kind, event_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS crossing
    FROM events
),

within AS (
    SELECT
        *,
        SUM(IFF(kind = 2, 1, 0)) OVER (
            PARTITION BY device_id, geofence_tag, geofence_external_id, crossing ORDER BY occurred_at, kind, event_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) - IFF(kind = 2, 1, 0) AS exits_before
    FROM numbered
    WHERE crossing > 0
),

crossings AS (
    SELECT
        device_id,
        geofence_tag,
        geofence_external_id,
        crossing,
        MAX(IFF(kind = 0, occurred_at, NULL)) AS entered_at,
        MAX(IFF(kind = 2, occurred_at, NULL)) AS exited_at
    FROM within
    WHERE exits_before = 0
    GROUP BY device_id, geofence_tag, geofence_external_id, crossing
),

gaps AS (
    SELECT
        *,
        LAG(exited_at) OVER (
            PARTITION BY device_id, geofence_tag, geofence_external_id ORDER BY crossing
        ) AS exited_before_at,
        MAX(crossing) OVER (PARTITION BY device_id, geofence_tag, geofence_external_id) AS last_crossing
    FROM crossings
),

merged AS (
    SELECT
        *,
        SUM(IFF(entered_at <= DATEADD('second', 120, exited_before_at), 0, 1)) OVER (
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
        MIN(entered_at) AS entered_at,
        IFF(COUNT(exited_at) = COUNT(*), MAX(exited_at), NULL) AS exited_at,
        MAX(crossing) < MAX(last_crossing) AS is_followed
    FROM merged
    GROUP BY device_id, geofence_tag, geofence_external_id, visit
),

first_deliveries AS (
    SELECT * FROM deliveries
    QUALIFY
        ROW_NUMBER() OVER (
            PARTITION BY device_id, event_id ORDER BY file_modified_at, file_name, file_row_number
        ) = 1
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
            AND first_deliveries.occurred_at BETWEEN visits.entered_at AND visits.exited_at
    WHERE first_deliveries.event_type = 'pickup.completed'
    GROUP BY visits.device_id, visits.geofence_tag, visits.geofence_external_id, visits.visit
)

SELECT
    visits.entered_at::DATE AS collection_date,
    visits.geofence_tag,
    visits.geofence_external_id,
    COUNT(*) AS visits,
    COUNT(DISTINCT visits.device_id) AS devices,
    COALESCE(SUM(pickups.pickups), 0) AS pickups,
    COALESCE(SUM(pickups.litres), 0) AS litres,
    COALESCE(SUM(DATEDIFF('microsecond', visits.entered_at, visits.exited_at)), 0) / 1000000.0 AS dwell_seconds,
    SUM(IFF(visits.exited_at IS NULL AND visits.is_followed, 1, 0)) AS missed_exits,
    SUM(IFF(visits.exited_at IS NULL AND NOT visits.is_followed, 1, 0)) AS open_visits
FROM visits
LEFT JOIN pickups
    ON
        visits.device_id = pickups.device_id
        AND visits.geofence_tag = pickups.geofence_tag
        AND visits.geofence_external_id = pickups.geofence_external_id
        AND visits.visit = pickups.visit
GROUP BY visits.entered_at::DATE, visits.geofence_tag, visits.geofence_external_id
ORDER BY collection_date, visits.geofence_tag, visits.geofence_external_id;
