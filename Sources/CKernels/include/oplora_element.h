// The element types of stored numbers, as all kernels name them.
#pragma once

/// Floating types first: every binary64 kernel takes exactly these.
enum oplora_element {
    oplora_element_f32 = 0,
    oplora_element_bf16 = 1,
    oplora_element_f16 = 2,
    oplora_element_f64 = 3,
    oplora_element_i8 = 4,
    oplora_element_u8 = 5,
    oplora_element_i16 = 6,
    oplora_element_u16 = 7,
    oplora_element_i32 = 8,
    oplora_element_u32 = 9,
    oplora_element_i64 = 10,
    oplora_element_u64 = 11,
};
