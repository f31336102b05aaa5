SELECT payload:_id::VARCHAR AS event_id
FROM {{ source('raw', 'events') }}
WHERE scanned_at < (SELECT MAX(scanned_at) FROM {{ ref('stg_events') }})
EXCEPT
SELECT event_id FROM {{ ref('stg_events') }}
