{{ config(severity='warn') }}
-- Rows of files that somebody put under events/ or rejected/ by hand. They only cause a warning, because no mart
-- reads them.
SELECT source_table, code, file_name, file_row_number
FROM {{ ref('invalid_rows') }}
WHERE {{ restated_part('invalid_rows') }}
