-- The hours of receipt whose rows in ingest_quality the new rows may change.
{{ config(materialized='table') }}

-- depends_on: {{ ref('high_water_mark') }}

SELECT received_hour FROM {{ ref('touched_days') }}
UNION
SELECT DATE_TRUNC('hour', file_modified_at) AS received_hour
FROM {{ source('raw', 'rejected') }}
WHERE scanned_at > {{ mark('read_from') }} AND scanned_at <= {{ mark('scanned_through') }}
