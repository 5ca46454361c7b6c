internal import COneDNN

/// The sizes and places of a product c[m,n] = a[m,k] · b[k,n], row-major, as oneDNN prepares code for it.
struct MatmulShape: Hashable, Sendable {
    enum Input: Sendable {
        case f32, bf16
    }

    var m: Int
    var n: Int
    var k: Int
    var lda: Int
    var ldb: Int
    var ldc: Int
    /// Whether b is stored as [n,k].
    var isBTransposed: Bool
    /// Whether the product is added to c or replaces it.
    var accumulates: Bool
    var input: Input
}

/// A oneDNN matmul primitive: inputs in F32 or BF16, result in F32. For one thread at a time.
///
/// `dnnl_sgemm` has no sibling for BF16 in oneDNN's public interface, so BF16 products go this way. F32 products can,
/// too, which lets a processor without BF16 test everything else about it.
@safe final class MatmulPrimitive {
    private var primitive: dnnl_primitive_t?
    private var stream: dnnl_stream_t?
    private var a, b, c, scratchpad: dnnl_memory_t?

    /// - Returns: `nil` where oneDNN has no such product for this processor.
    init?(_ shape: MatmulShape, engine: CPUEngine) {
        let type = shape.input == .bf16 ? dnnl_bf16 : dnnl_f32
        let (k, n) = (Int64(shape.k), Int64(shape.n))
        var aDescription = Self.matrix(Int64(shape.m), k, type, strides: (Int64(shape.lda), 1))
        var bDescription = Self.matrix(k, n, type, strides: shape.isBTransposed ? (1, Int64(shape.ldb)) : (Int64(shape.ldb), 1))
        var cDescription = Self.matrix(Int64(shape.m), n, dnnl_f32, strides: (Int64(shape.ldc), 1))
        // Sound: every pointer below is to a local that lives through the call, or a handle that oneDNN gave out.
        var operation = dnnl_matmul_desc_t()
        guard unsafe dnnl_matmul_desc_init(&operation, &aDescription, &bDescription, nil, &cDescription) == dnnl_success else { return nil }
        var attributes: dnnl_primitive_attr_t?
        guard unsafe dnnl_primitive_attr_create(&attributes) == dnnl_success else { return nil }
        defer { unsafe dnnl_primitive_attr_destroy(attributes) }
        // oneDNN's own scratchpad belongs to the thread that made the primitive; workers change threads.
        unsafe dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user)
        if shape.accumulates {
            var after: dnnl_post_ops_t?
            guard unsafe dnnl_post_ops_create(&after) == dnnl_success else { return nil }
            defer { unsafe dnnl_post_ops_destroy(after) }
            unsafe dnnl_post_ops_append_sum(after, 1)
            unsafe dnnl_primitive_attr_set_post_ops(attributes, after)
        }
        var description: dnnl_primitive_desc_t?
        guard unsafe dnnl_primitive_desc_create(&description, &operation, attributes, engine.handle, nil) == dnnl_success else { return nil }
        defer { unsafe dnnl_primitive_desc_destroy(description) }
        let scratchpadDescription = unsafe dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0)

        // DNNL_MEMORY_NONE and DNNL_MEMORY_ALLOCATE, which are casts in C.
        let (none, allocated) = unsafe (UnsafeMutableRawPointer(bitPattern: 0), UnsafeMutableRawPointer(bitPattern: -1))
        let statuses = unsafe [
            dnnl_primitive_create(&primitive, description),
            dnnl_stream_create(&stream, engine.handle, UInt32(dnnl_stream_default_flags.rawValue)),
            dnnl_memory_create(&a, &aDescription, engine.handle, none), dnnl_memory_create(&b, &bDescription, engine.handle, none),
            dnnl_memory_create(&c, &cDescription, engine.handle, none),
            dnnl_memory_create(&scratchpad, scratchpadDescription, engine.handle, allocated),
        ]
        guard statuses.allSatisfy({ $0 == dnnl_success }) else { return nil }
    }

    deinit {
        unsafe dnnl_memory_destroy(a)
        unsafe dnnl_memory_destroy(b)
        unsafe dnnl_memory_destroy(c)
        unsafe dnnl_memory_destroy(scratchpad)
        unsafe dnnl_stream_destroy(stream)
        unsafe dnnl_primitive_destroy(primitive)
    }

    /// Multiplies. The pointers are to matrices of the shape and input type that the primitive was made for.
    func run(a aData: UnsafeRawPointer, b bData: UnsafeRawPointer, c cData: UnsafeMutablePointer<Float>) {
        // Sound: oneDNN only reads what is bound to source and weights.
        unsafe dnnl_memory_set_data_handle(a, UnsafeMutableRawPointer(mutating: aData))
        unsafe dnnl_memory_set_data_handle(b, UnsafeMutableRawPointer(mutating: bData))
        unsafe dnnl_memory_set_data_handle(c, cData)
        let arguments = unsafe (
            dnnl_exec_arg_t(arg: DNNL_ARG_SRC_0, memory: a), dnnl_exec_arg_t(arg: DNNL_ARG_WEIGHTS_0, memory: b),
            dnnl_exec_arg_t(arg: DNNL_ARG_DST_0, memory: c), dnnl_exec_arg_t(arg: DNNL_ARG_SCRATCHPAD, memory: scratchpad)
        )
        let status = unsafe withUnsafeBytes(of: arguments) { bytes in
            unsafe dnnl_primitive_execute(primitive, stream, 4, bytes.baseAddress?.assumingMemoryBound(to: dnnl_exec_arg_t.self))
        }
        precondition(unsafe status == dnnl_success && dnnl_stream_wait(stream) == dnnl_success, "oneDNN failed at a product")
    }

    private static func matrix(
        _ rows: Int64, _ columns: Int64, _ type: dnnl_data_type_t, strides: (Int64, Int64)
    ) -> dnnl_memory_desc_t {
        var description = dnnl_memory_desc_t()
        let sizes = [rows, columns], steps = [strides.0, strides.1]
        let status = unsafe dnnl_memory_desc_init_by_strides(&description, 2, sizes, type, steps)
        precondition(status == dnnl_success, "oneDNN refused a matrix of sizes \(rows), \(columns)")
        return description
    }
}

/// The processor, as oneDNN calls it.
@safe final class CPUEngine: Sendable {
    nonisolated(unsafe) let handle: dnnl_engine_t

    init() {
        var engine: dnnl_engine_t?
        let status = unsafe dnnl_engine_create(&engine, dnnl_cpu, 0)
        guard status == dnnl_success, let engine = unsafe engine else { preconditionFailure("oneDNN finds no processor") }
        unsafe handle = engine
    }

    deinit { unsafe dnnl_engine_destroy(handle) }
}
