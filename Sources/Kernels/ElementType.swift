internal import CKernels
internal import Tensors

extension DType {
    /// What the kernels call the type; `nil` for those that no kernel takes. BOOL is a byte to them.
    var element: oplora_element? {
        switch self {
        case .f32: oplora_element_f32
        case .bf16: oplora_element_bf16
        case .f16: oplora_element_f16
        case .f64: oplora_element_f64
        case .i8: oplora_element_i8
        case .u8, .bool: oplora_element_u8
        case .i16: oplora_element_i16
        case .u16: oplora_element_u16
        case .i32: oplora_element_i32
        case .u32: oplora_element_u32
        case .i64: oplora_element_i64
        case .u64: oplora_element_u64
        default: nil
        }
    }

    /// Likewise, for a type that is computed with.
    ///
    /// - Precondition: `isFloat`.
    var floatElement: oplora_element {
        guard isFloat, let element else { preconditionFailure("\(self) is not a type that is computed with") }
        return element
    }
}
