internal import Families
internal import JSON
internal import OrderedCollections
internal import Safetensors
internal import Weights

/// What the modules of a model of transformers are called, whoever names them: its files, the model in memory, or an adapter that was trained with
/// an earlier release.
///
/// transformers renames tensors when it loads them, and PEFT writes the names in memory. The names of files are renamed here as transformers does
/// it, and names of adapters likewise, which leaves those in memory as they are and brings earlier ones to them. Then both lose the names of the
/// models around the one that is meant, so that an adapter of the text part alone meets a model of text and images, and the other way round.
struct MemoryNames: Sendable {
    /// A run of components that takes the place of another: the first one in a name.
    struct Renaming: Sendable {
        private let isAtStart: Bool
        private let old: [Substring]
        private let new: [Substring]

        /// - Parameter text: two runs with a space between; the second may be empty. `^` binds the first to the start of a name, and `#` is a
        ///   number, which is kept.
        init(_ text: String) {
            let runs = text.split(separator: " ", omittingEmptySubsequences: false)
            isAtStart = text.hasPrefix("^")
            old = runs[0].drop { $0 == "^" }.split(separator: ".")
            new = runs.dropFirst().first?.split(separator: ".") ?? []
        }

        func apply(to parts: inout [Substring]) {
            let last = parts.count - old.count
            guard last >= 0, let start = (0...(isAtStart ? 0 : last)).first(where: { matches(parts[$0..<$0 + old.count]) }) else { return }
            var numbers = zip(old, parts[start...]).filter { $0.0 == "#" }.map(\.1).makeIterator()
            parts.replaceSubrange(start..<start + old.count, with: new.compactMap { $0 == "#" ? numbers.next() : $0 })
        }

        private func matches(_ parts: ArraySlice<Substring>) -> Bool {
            zip(old, parts).allSatisfy { $0 == $1 || $0 == "#" && Int($1) != nil }
        }
    }

    private let renamings: [Renaming]
    /// What the modules of the model lie in, in memory.
    private let frame: Frame

    private enum Frame: Equatable {
        /// The same as in the files; what the files have another name around lies in the inner model of this name, unless the model is that itself.
        case ofFiles(isInner: Bool, model: Substring)
        /// A model of this name around these parts; files of the family may be those of the inner model.
        case named(Substring, parts: Set<Substring>)
        /// `model`, and in it `language_model` beside the parts for images and sound; the inner one has no `model`. All of it may lie in
        /// something else.
        case composite(isInner: Bool, around: String)
        /// The model has the names of its files.
        case kept
        /// Names in memory that no renaming here gives.
        case unknown
    }

    init(_ configuration: JSONValue?) {
        let families = ModelFamilies.families(of: Self.models(in: configuration)).map(\.memory)
        let own = ModelFamilies.family(of: configuration?["model_type"]?.stringValue ?? "")?.memory ?? .init()
        frame = Self.frame(of: configuration, own)
        knowsAllModules = families.allSatisfy(\.knowsAllModules)
        var renamings: OrderedSet<String> = OrderedSet(own.renamingsAlone)
        for family in families { renamings.append(contentsOf: family.renamings) }
        if !families.contains(where: \.keepsMixtures) { renamings.append(contentsOf: MemoryNaming.mixtures) }
        renamings.append(contentsOf: MemoryNaming.general)
        self.renamings = renamings.map(Renaming.init)
    }

    /// The `model_type`s that a configuration gives the model and its parts.
    static func models(in configuration: JSONValue?, depth: Int = 4) -> Set<String> {
        guard depth > 0, let members = configuration?.objectValue else { return [] }
        var found = Set(members["model_type"]?.stringValue.map { [$0] } ?? [])
        for member in members.values { found.formUnion(models(in: member, depth: depth - 1)) }
        return found
    }

    /// What compilation, sharding and checkpointing of activations put around a module.
    private static let wrappers: Set<Substring> = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]

    /// A name that all names of a module or tensor have in common.
    func normal(_ name: some StringProtocol) -> String { parts(of: name).renamed.joined(separator: ".") }

    /// A name without the models around it, before and after renaming.
    private func parts(of name: some StringProtocol) -> (outer: ArraySlice<Substring>, own: ArraySlice<Substring>, renamed: ArraySlice<Substring>) {
        var parts = name.split(separator: ".").map { Substring($0) }
        parts.removeAll(where: Self.wrappers.contains)
        if parts.first == "module" { parts.removeFirst() }
        let own = parts.drop(while: CompositeNames.outer.contains)
        var renamed = Array(own)
        for renaming in renamings { renaming.apply(to: &renamed) }
        return (parts[..<own.startIndex], own, renamed.drop(while: CompositeNames.outer.contains))
    }

    /// Whether `inMemory` gives what transformers has.
    var knowsMemory: Bool { frame != .unknown }
    /// Whether the names of norms and convolutions in memory are known, too.
    let knowsAllModules: Bool

    /// What transformers calls a tensor in memory that the files, or other tools, call `name`; PEFT gives adapters these names.
    ///
    /// An expert with a number of its own keeps its name: in memory there are stacks, into which PEFT puts experts by the names of files.
    func inMemory(_ name: String) -> String {
        let (outer, own, renamed) = parts(of: name)
        if zip(own, own.dropFirst()).contains(where: { $0 == "experts" && Int($1) != nil }) { return name }
        let end = renamed.joined(separator: ".")
        let keepsFirst = renamed.first == own.first
        switch frame {
        case .kept, .unknown: return name
        case .named(let model, let parts): return outer.isEmpty && own.first.map(parts.contains) == true ? "\(model).\(name)" : name
        case .ofFiles(let isInner, let model):
            if own == renamed { return name }
            if !outer.isEmpty, renamed.first != "lm_head" { return outer.joined(separator: ".") + "." + end }
            return keepsFirst || isInner || renamed.first.map(Self.isHead) == true ? end : "\(model).\(end)"
        case .composite(let isInner, let around):
            let isOfText = outer.contains("language_model") || renamed.first.map(CompositeNames.ofText.contains) == true
            if isInner { return isOfText ? "language_model." + end : keepsFirst ? end : name }
            if let head = renamed.first, outer.isEmpty ? Self.isHead(head) : CompositeNames.heads.contains(head) { return around + end }
            return around + (isOfText ? "model.language_model." : "model.") + end
        }
    }

    /// The class decides here, and not the weights: the files of two classes of one family can hold the same tensors, such
    /// as GPT-2 with its head tied and GPT-2 without one, and yet the modules have different names in memory.
    private static func frame(of configuration: JSONValue?, _ family: MemoryNaming) -> Frame {
        let architecture = configuration?["architectures"]?.arrayValue?.first?.stringValue ?? ""
        let isInner = architecture.hasSuffix("Model") && !architecture.hasSuffix("LMHeadModel")
        if family.frame == .kept { return .kept }
        // A backbone has an inner model in some families and none in others.
        if family.frame == .unknown || family.hiddenClasses.contains(architecture) || isInner && family.hidesInnerModel
            || architecture.hasSuffix("Backbone")
        {
            return .unknown
        }
        if configuration?["text_config"]?.objectValue != nil {
            return .composite(isInner: isInner, around: family.outerPrefix)
        }
        if case .ofInnerModel(let parts) = family.frame {
            return isInner ? .kept : .named(Substring(family.innerModel), parts: Set(parts.map { Substring($0) }))
        }
        return .ofFiles(isInner: isInner, model: Substring(family.innerModel))
    }

    private static func isHead(_ name: Substring) -> Bool {
        CompositeNames.heads.contains(name) || CompositeNames.otherHeads.contains(name)
    }
}

/// The tensors of a model by the names that theirs have in common with those of adapters.
struct MemoryIndex: Sendable {
    private let files: ModelWeights
    private let names: MemoryNames
    private var tensors: [String: [String]] = [:]
    private var outerNames: Set<Substring> = []

    /// - Parameter absent: names of tied matrices that the files hold under another one.
    init(_ files: ModelWeights, configuration: JSONValue?, absent: [String]) {
        self.files = files
        names = MemoryNames(configuration)
        for name in Array(files.tensors.keys) + absent {
            let normal = normal(name)
            tensors[normal, default: []].append(name)
            if let outer = normal.split(separator: ".", maxSplits: 1).first { outerNames.insert(outer) }
        }
    }

    /// The tensors that may be meant.
    func candidates(for name: String) -> [String] {
        let normal = normal(name)
        // A name that says what lies around the module gets nothing else in front.
        let isWhole = normal.count < name.count && name.hasSuffix("." + normal)
        return tensors[normal] ?? BaseModel.candidates(for: normal, outerNames: isWhole ? [] : outerNames) { tensors[$0] ?? [] }
    }

    /// A component of a pipeline keeps its name.
    private func normal(_ name: String) -> String {
        guard let component = files.component(of: name) else { return names.normal(name) }
        return "\(component).\(names.normal(name.dropFirst(component.count + 1)))"
    }
}
