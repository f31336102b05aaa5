{{ config(severity='warn') }}
-- Invalid rows, such as those of files that somebody put under events/ or rejected/ by hand. They only cause a warning,
-- because ingest_quality counts them and no other mart reads them.
SELECT source_table, code, file_name, file_row_number
FROM {{ ref('invalid_rows') }}
WHERE {{ restated_part('invalid_rows') }}
