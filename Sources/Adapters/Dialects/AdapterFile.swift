internal import OrderedCollections
internal import Safetensors
internal import Tensors

/// The safetensors file of an adapter, its tensors without the names of wrappers that training puts around modules.
///
/// Source: torch 2.13, `torch.compile` (`_orig_mod`), `DistributedDataParallel` (`module`), FSDP and activation checkpointing; PEFT
/// names the adapter (`lora_A.default.weight`) in the modules, and leaves the name out when it saves.
enum AdapterFile {
    /// Wrappers that no model has as a module of its own.
    private static let wrappers: Set<Substring> = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module"]
    /// A wrapper whose name a model may use, too: it is one in front of everything, or beside another wrapper.
    private static let commonWrapper: Substring = "module"
    private static let adapterName: Substring = "default"
    /// Parts of a module in which PEFT keeps one tensor for each adapter.
    private static let adapterDictionaries: Set<Substring> = [
        "lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector",
    ]

    /// - Throws: `AdapterError.unexpectedTensor` where two tensors differ in their wrappers alone; `SafetensorsError` or `FileError`.
    static func open(_ path: String) throws -> SafetensorsFile {
        let file = try SafetensorsFile(path: path)
        guard file.tensors.keys.contains(where: { unwrapped($0) != $0 }) else { return file }
        var seen: [String: String] = [:]
        for name in file.tensors.keys {
            guard let other = seen.updateValue(name, forKey: unwrapped(name)) else { continue }
            throw AdapterError(
                .unexpectedTensor, path: path, subject: name, "it and \(other) are the same tensor once the names of wrappers are taken off")
        }
        return file.renaming(unwrapped)
    }

    /// A tensor's name without wrappers.
    static func unwrapped(_ name: String) -> String {
        if let flat = Kohya.prefixes.first(where: { name.hasPrefix($0.prefix) })?.prefix { return unwrappedFlat(name, prefix: flat) }
        guard mayBeWrapped(name) else { return name }
        var parts = name.split(separator: ".", omittingEmptySubsequences: false)
        let leading = PEFT.keyPrefix.split(separator: ".")
        var kept: [Substring] = []
        for (place, part) in parts.enumerated() {
            if wrappers.contains(part) { continue }
            let isLeading = kept.isEmpty || kept == leading || kept.count == 1 && Diffusers.components.contains(String(kept[0]))
            let isBesideWrapper = place > 0 && wrappers.contains(parts[place - 1]) || place + 1 < parts.count && wrappers.contains(parts[place + 1])
            if part == commonWrapper, place + 2 < parts.count, isLeading || isBesideWrapper { continue }
            kept.append(part)
        }
        parts = kept
        if let place = parts.lastIndex(of: adapterName), place > 0, adapterDictionaries.contains(parts[place - 1]) { parts.remove(at: place) }
        // In memory PEFT 0.21 keeps a magnitude as the weight of a module.
        if parts.count > 2, parts[parts.count - 2] == "lora_magnitude_vector", parts.last == "weight" { parts.removeLast() }
        return parts.joined(separator: ".")
    }

    /// Whether a component of a name begins like one that is taken off. Most names have none, and need not be cut.
    private static func mayBeWrapped(_ name: String) -> Bool {
        guard !name.hasSuffix(".lora_magnitude_vector.weight") else { return true }
        var rest = name.utf8[...]
        while true {
            switch rest.first {
            case UInt8(ascii: "_"): return true
            case commonWrapper.utf8.first: if rest.starts(with: commonWrapper.utf8) { return true }
            case adapterName.utf8.first: if rest.starts(with: adapterName.utf8) { return true }
            default: break
            }
            guard let dot = rest.firstIndex(of: UInt8(ascii: ".")) else { return false }
            rest = rest[rest.index(after: dot)...]
        }
    }

    /// Likewise of a name whose dots are underscores; no name of a model has two of them in a row.
    private static func unwrappedFlat(_ name: String, prefix: String) -> String {
        var rest = name.dropFirst(prefix.count)
        for wrapper in wrappers { if rest.hasPrefix(wrapper + "_") { rest = rest.dropFirst(wrapper.count + 1) } }
        return prefix + wrappers.reduce(String(rest)) { $0.replacing("_\($1)_", with: "_") }
    }
}
