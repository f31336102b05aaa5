{{ config(materialized='view') }}

-- This query does not read the next model, but the tests of this model do. In Airflow, a test runs with the last model
-- that it reads (ops/nightly.py).
-- depends_on: {{ ref('high_water_mark') }}

WITH events AS (

    SELECT
        'events' AS source_table,
        invalid_code AS code,
        file_name,
        file_row_number,
        received_at,
        payload,
        scanned_at
    FROM {{ ref('typed_events') }}
    WHERE invalid_code IS NOT NULL

),

rejects AS (

    SELECT
        'rejected' AS source_table,
        'not_a_reject' AS code,
        file_name,
        file_row_number,
        file_modified_at AS received_at,
        payload,
        scanned_at
    FROM {{ source('raw', 'rejected') }}
    WHERE payload:reasons[0].code::VARCHAR IS NULL

),

loaded AS (

    SELECT * FROM events
    UNION ALL
    SELECT * FROM rejects

),

-- A recreated pipe may load a file again, so keep only one row per line. Because the window is partitioned by
-- received_at, Snowflake can apply a filter on received_at before the window function and prune micro-partitions.
first_scan AS (

    SELECT * FROM loaded
    QUALIFY ROW_NUMBER() OVER (PARTITION BY source_table, file_name, file_row_number, received_at ORDER BY scanned_at) = 1

)

SELECT
    {{ key_of(['file_name', 'file_row_number::VARCHAR', 'received_at::VARCHAR']) }} AS invalid_row_key,
    source_table,
    code,
    file_name,
    file_row_number,
    received_at,
    payload,
    scanned_at
FROM first_scan
