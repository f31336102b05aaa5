{{ config(materialized='view') }}

-- This query does not read the next model, but the tests of this model do. In Airflow, a test runs with the last model
-- that it reads (ops/nightly.py).
-- depends_on: {{ ref('high_water_mark') }}

WITH source AS (

    SELECT * FROM {{ source('raw', 'rejected') }}
    WHERE payload:reasons[0].code::VARCHAR IS NOT NULL

),

typed AS (

    SELECT
        MD5(file_name || ':' || file_row_number || ':' || file_modified_at) AS reject_key,
        payload:event_id::VARCHAR AS event_id,
        payload:reasons[0].code::VARCHAR AS code,
        payload:reasons[0].field::VARCHAR AS field,
        payload:reasons[0].message::VARCHAR AS message,
        ARRAY_SIZE(payload:reasons) AS reason_count,
        payload:reasons AS reasons,
        payload:event AS event,
        payload:body_base64::VARCHAR AS body_base64,
        payload:app_version::VARCHAR AS app_version,
        file_modified_at AS received_at,
        file_name,
        file_row_number,
        scanned_at
    FROM source

),

-- A recreated pipe may load a file again, so keep only one reject per line.
first_scan AS (

    SELECT * FROM typed
    QUALIFY ROW_NUMBER() OVER (PARTITION BY file_name, file_row_number, received_at ORDER BY scanned_at) = 1

)

SELECT
    reject_key,
    event_id,
    code,
    field,
    message,
    reason_count,
    reasons,
    event,
    body_base64,
    app_version,
    received_at,
    file_name,
    file_row_number,
    scanned_at
FROM first_scan
