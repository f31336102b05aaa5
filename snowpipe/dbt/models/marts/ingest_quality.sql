{{ config(
    materialized='incremental',
    incremental_strategy='restate',
    cluster_by=['received_hour'],
    meta={'restates': 'hours'}
) }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('restated_hours') }}

{%- set hours = values_of('SELECT DISTINCT received_hour::VARCHAR FROM ' ~ ref('restated_hours')) %}
{%- set restated = in_hours('received_at', hours) if is_incremental() else 'TRUE' %}

WITH accepted AS (

    SELECT
        DATE_TRUNC('hour', received_at) AS received_hour,
        event_id,
        event_type,
        -- Measured by the clock of the app's own server if the event contains its time, otherwise by S3's clock.
        DATEDIFF('second', occurred_at, COALESCE(app_server_created_at, received_at)) AS lateness_seconds
    FROM {{ ref('stg_events') }}
    WHERE {{ restated }}

),

conflicts AS (

    SELECT
        DATE_TRUNC('hour', received_at) AS received_hour,
        COUNT(*) AS conflicts
    FROM {{ ref('event_conflicts') }}
    WHERE {{ restated }}
    GROUP BY DATE_TRUNC('hour', received_at)

),

-- One scan of RAW counts both events and invalid rows. A recreated pipe may load a file again, so invalid rows are
-- counted by line.
loaded AS (

    SELECT
        DATE_TRUNC('hour', received_at) AS received_hour,
        COALESCE(invalid_code, '') AS code,
        COUNT(*) AS deliveries,
        COUNT(DISTINCT IFF(invalid_code IS NULL, NULL, file_name || ':' || file_row_number)) AS invalid_lines
    FROM {{ ref('typed_events') }}
    WHERE scanned_at <= {{ mark('scanned_through') }} AND {{ restated }}
    GROUP BY DATE_TRUNC('hour', received_at), COALESCE(invalid_code, '')

),

invalid AS (

    SELECT
        received_hour,
        code,
        invalid_lines
    FROM loaded
    WHERE code <> ''
    UNION ALL
    SELECT
        DATE_TRUNC('hour', received_at) AS received_hour,
        code,
        COUNT(*) AS invalid_lines
    FROM {{ ref('invalid_rows') }}
    WHERE source_table = 'rejected' AND scanned_at <= {{ mark('scanned_through') }} AND {{ restated }}
    GROUP BY DATE_TRUNC('hour', received_at), code

),

by_hour AS (

    SELECT
        received_hour,
        COUNT(*) AS events,
        MEDIAN(lateness_seconds) AS lateness_seconds_median,
        PERCENTILE_CONT(0.95) WITHIN GROUP (ORDER BY lateness_seconds) AS lateness_seconds_p95,
        MAX(lateness_seconds) AS lateness_seconds_max
    FROM accepted
    GROUP BY received_hour

),

accepted_hours AS (

    SELECT
        loaded.received_hour,
        'accepted' AS outcome,
        '' AS code,
        '' AS app_version,
        COALESCE(by_hour.events, 0) AS events,
        loaded.deliveries,
        COALESCE(conflicts.conflicts, 0) AS conflicts,
        by_hour.lateness_seconds_median,
        by_hour.lateness_seconds_p95,
        by_hour.lateness_seconds_max
    FROM loaded
    LEFT JOIN by_hour ON loaded.received_hour = by_hour.received_hour
    LEFT JOIN conflicts ON loaded.received_hour = conflicts.received_hour
    WHERE loaded.code = ''

),

rejected_hours AS (

    SELECT
        DATE_TRUNC('hour', received_at) AS received_hour,
        'rejected' AS outcome,
        COALESCE(code, '') AS code,
        COALESCE(app_version, '') AS app_version,
        COUNT(*) AS events,
        COUNT(*) AS deliveries,
        0 AS conflicts,
        NULL::FLOAT AS lateness_seconds_median,
        NULL::FLOAT AS lateness_seconds_p95,
        NULL::FLOAT AS lateness_seconds_max
    FROM {{ ref('stg_rejected_events') }}
    WHERE scanned_at <= {{ mark('scanned_through') }} AND {{ restated }}
    GROUP BY DATE_TRUNC('hour', received_at), COALESCE(code, ''), COALESCE(app_version, '')

),

invalid_hours AS (

    SELECT
        received_hour,
        'invalid' AS outcome,
        code,
        '' AS app_version,
        invalid_lines AS events,
        invalid_lines AS deliveries,
        0 AS conflicts,
        NULL::FLOAT AS lateness_seconds_median,
        NULL::FLOAT AS lateness_seconds_p95,
        NULL::FLOAT AS lateness_seconds_max
    FROM invalid

),

hours AS (

    SELECT * FROM accepted_hours
    UNION ALL
    SELECT * FROM rejected_hours
    UNION ALL
    SELECT * FROM invalid_hours

)

SELECT
    {{ key_of(['received_hour::VARCHAR', 'outcome', 'code', 'app_version']) }} AS quality_key,
    received_hour,
    outcome,
    code,
    app_version,
    events,
    deliveries,
    conflicts,
    lateness_seconds_median,
    lateness_seconds_p95,
    lateness_seconds_max
FROM hours
