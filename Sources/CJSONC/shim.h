#include <json-c/json.h>

// The library's flags are function-like macros, which Swift does not import.
static const int oplora_json_strict_flags = JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8;
