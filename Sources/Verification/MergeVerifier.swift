public import Adapters
internal import Families
internal import FileIO
internal import JSON
internal import Kernels
internal import OrderedCollections
internal import Safetensors
internal import Synchronization
public import Tensors
public import Weights

/// Checks a merged model against its base and the adapters, from the definition of the merge and in code of its own.
public enum MergeVerifier {
    public struct Options: Sendable {
        public var threads: Int
        /// The element type that the merged model should have; `nil` for that of each tensor of the base.
        public var dtype: DType?
        public var gates: Gates
        /// Whether the rows of the worst modules are measured one by one.
        public var examinesRows: Bool
        /// Asked before each block of rows; true stops.
        public var isCancelled: @Sendable () -> Bool

        public init(
            threads: Int = 1, dtype: DType? = nil, gates: Gates = Gates(), examinesRows: Bool = false,
            isCancelled: @escaping @Sendable () -> Bool = { false }
        ) {
            self.threads = threads
            self.dtype = dtype
            self.gates = gates
            self.examinesRows = examinesRows
            self.isCancelled = isCancelled
        }
    }

    /// Limits that a team sets for what is right.
    public struct Gates: Sendable {
        /// The largest distance from the correctly rounded element, in steps of the stored type; 0 asks for the defined merge, bit for
        /// bit.
        public var maxUlp: Int?
        /// The least share of an update that rounding may leave.
        public var minSurvival: Double?

        public init(maxUlp: Int? = nil, minSurvival: Double? = nil) {
            self.maxUlp = maxUlp
            self.minSurvival = minSurvival
        }

        func faults(of module: MergeVerdict.Module) -> [Fault] {
            var faults: [Fault] = []
            if let maxUlp, module.maxUlp > maxUlp {
                faults.append(
                    Fault(
                        .gate, module.path.text,
                        "\(module.differingElements) of \(module.elements) elements are not the correctly rounded ones, the furthest \(module.meaningfulUlp.map { "\($0) ulp off" } ?? "a factor of two off, or across zero")",
                        cause: .maxUlp(maxUlp)))
            }
            if let minSurvival, let survival = module.survival, survival < minSurvival {
                faults.append(
                    Fault(
                        .gate, module.path.text,
                        "rounding leaves \(FaultSearch.text(survival)) of the update", cause: .minSurvival(minSurvival)))
            }
            return faults
        }
    }

    /// Verifies a merged model.
    ///
    /// Every adapted weight must be what the definition or a known way of merging gives, or be off by no more than what roundings
    /// explain; every other tensor must have the base's bytes; and both models must hold the same tensors.
    ///
    /// - Parameters:
    ///   - base: a model folder or one safetensors file.
    ///   - adapters: in the order in which they were merged, with their weights.
    ///   - merged: a model folder or one safetensors file.
    /// - Throws: `SafetensorsError` or `FileError` for files that cannot be read; `MergeError.notAModel`, `.interrupted`.
    public static func verify(
        base: String, adapters: [WeightedAdapter], merged: String, options: Options = Options()
    ) throws -> MergeVerdict {
        let baseModel = try BaseModel(path: base)
        try requireModel(baseModel.files)
        let mergedFiles = try open(merged: merged, base: base)
        var faults: [Fault] = []
        var coverage = MergeVerdict.Coverage()
        var doubts: [Fault] = []
        // A library that decodes a model has it whole in full weights, whatever the adapter changes.
        let codes = mergedFiles.quantization.hasCodes ? AdaptedModel.Codes.decodedWhereChanged : .decoded
        let model = try AdaptedModel(base: baseModel, adapters: adapters, codes: codes) { subject, error throws(MergeError) in
            if error.code == .quantizedBase { return doubts.append(Fault(.quantizedBase, subject, error)) }
            coverage.adapterUnused.append(subject)
            faults.append(Fault(.adapterUnused, subject, error))
        }
        // What the codes of the base stand for is not known, and nothing can be held against them.
        guard doubts.isEmpty else { return MergeVerdict(faults: [], doubts: Array(doubts.prefix(1)), modules: [], coverage: .init()) }
        let correspondence = TensorCorrespondence(model.names, TensorCorrespondence.Model(mergedFiles, configuration: configuration(merged)))
        let matched = match(model, mergedFiles, correspondence, options: options, faults: &faults, doubts: &doubts, coverage: &coverage)
        let (works, results, roundedTo) = try judge(matched, of: model, options: options)
        let named = try search(works, results, options: options)
        let misplaced = try LayoutFaults.misplaced(works, results.map { $0.judgement?.standing == .wrong || $0.outcome.differs }, options: options)
        var modules: OrderedDictionary<ModulePath, [(MergeWork, VerificationTally, MergeStanding)]> = [:]
        for (number, (work, (outcome, judgement))) in zip(works, results).enumerated() {
            switch outcome {
            case .compared(let differing, let first):
                let own = misplaced[number].map { [$0] } ?? copyFaults(work, differing: differing, first: first, coverage: &coverage)
                faults += own.map(work.placing)
                if let module = work.module { modules[module, default: []].append((work, VerificationTally(), differing > 0 ? .wrong : .exact)) }
            case .measured(let tally):
                guard let judgement else { continue }
                if judgement.standing == .inconclusive {
                    doubts += judgement.fault.map { [work.placing($0)] } ?? []
                } else if judgement.standing == .wrong {
                    faults += (misplaced[number] ?? judgement.fault ?? named[number]).map { [work.placing($0)] } ?? []
                    if work.updates.isEmpty, !work.isReplaced { coverage.baseChangedWithoutAdapter.append(work.name) }
                }
                if let module = work.module { modules[module, default: []].append((work, tally, judgement.standing)) }
            }
        }
        let list = modules.sorted { $0.key < $1.key }.map { module($0.key, $0.value) }
        faults += list.flatMap { options.gates.faults(of: $0) }
        faults += try folderFaults(model: model, merged: merged, files: mergedFiles, isOfOtherLayout: correspondence.isOfTwoLayouts)
        if let fault = baseFault(works, results.map(\.outcome), faults) { faults.insert(fault, at: 0) }
        var verdict = MergeVerdict(faults: faults, doubts: doubts, modules: list, coverage: coverage)
        verdict.remarks = model.nameRemarks + receiptRemarks(base: base, adapters: adapters, merged: merged, isProven: verdict.outcome == .pass)
        verdict.remarks += LayoutFaults.remarks(correspondence)
        if let roundedTo {
            verdict.remarks.append(
                "the base's codes were decoded and rounded to \(roundedTo) before the update was added, as libraries that dequantize a model do"
            )
        }
        if options.dtype == nil, faults.contains(where: { $0.code == .dtypeMismatch }), let dtype = try? MergeReceipt(ofModel: merged)?.dtype {
            verdict.typeOfReceipt = dtype
        }
        if options.examinesRows { try RowSearch.examine(&verdict, works: modules.mapValues { $0.map(\.0) }, options: options) }
        return verdict
    }

    /// What the receipts beside the weights say otherwise.
    private static func receiptRemarks(base: String, adapters: [WeightedAdapter], merged: String, isProven: Bool) -> [String] {
        do throws(MergeError) {
            guard let receipt = try MergeReceipt(ofModel: merged) else { return [] }
            return receipt.disagreement(with: adapters, base: try MergeReceipt(ofModel: base), isProven: isProven).map { [$0] } ?? []
        } catch {
            return ["\(error)"]
        }
    }

    /// A merged folder made from a single file holds it under that file's name.
    public static func open(merged: String, base: String) throws -> ModelWeights {
        let named = FileSystem.join(merged, FileSystem.lastComponent(base))
        let isOfFile = FileSystem.isFolder(merged) && !FileSystem.isFolder(base) && FileSystem.exists(named)
        let files = try ModelWeights(path: isOfFile ? named : merged, decodes: false)
        try files.requireComparable()
        try requireModel(files)
        return files
    }

    private static func requireModel(_ files: ModelWeights) throws(MergeError) {
        guard !files.tensors.keys.allSatisfy({ $0.contains("lora_") }) else {
            throw MergeError(.notAModel, path: files.path, "this is an adapter, not a model")
        }
    }

    /// Whether the tensor is one that transformers widens to F32 when it loads a model, whatever type is asked for: routers and the like.
    private static func isKeptWide(_ name: String, _ dtype: DType, _ other: DType) -> Bool {
        (dtype == .bf16 || dtype == .f16) && other == .f32
            && PrecisionNames.keptWide.contains(where: name.hasSuffix)
    }

    /// What is to be measured: the tensors that both models hold alike.
    private static func match(
        _ model: AdaptedModel, _ merged: ModelWeights, _ correspondence: TensorCorrespondence, options: Options, faults: inout [Fault],
        doubts: inout [Fault], coverage: inout MergeVerdict.Coverage
    ) -> [MergeWork] {
        var works: [MergeWork] = []
        let renamed = correspondence.renamed
        let strangers = LayoutFaults.strangers(model, merged, correspondence)
        // What is the same as another tensor may be in the files or not.
        let copies = model.shared.filter { merged.tensors[$0.key] != nil && model.base.files.tensors[$0.key] == nil }
        // The type that takes the place of codes is free, but one for all.
        let decodedType =
            model.tensors.lazy.filter { $0.source.encoded != nil }.compactMap { merged.tensors[renamed[$0.name] ?? $0.name]?.dtype }
            .first(where: \.isWritable) ?? model.base.statedType
        let doubled = model.tensors.flatMap { tensor in
            [tensor] + copies.keys.sorted().filter { copies[$0] == tensor.name }.map { tensor.renamed($0) }
        }
        for tensor in doubled {
            let (name, shape) = (tensor.name, tensor.shape)
            let dtype = tensor.source.encoded == nil || options.dtype != nil ? model.dtype(of: tensor, asked: options.dtype) : decodedType
            func isOfType(_ other: StoredWeight) -> Bool {
                guard options.dtype == nil, other.dtype != dtype else { return other.dtype == dtype }
                // Whoever decodes a model may hold all of it in one type.
                return isKeptWide(name, dtype, other.dtype) || model.decodes && dtype.isFloat && other.dtype == decodedType
            }
            if let pieces = correspondence.pieces[name] {
                for gap in correspondence.gaps.first where gap.tensor == name {
                    coverage.missing.append(gap.missing)
                    faults.append(
                        Fault(
                            .missingTensor, gap.missing,
                            "the merged model does not hold this tensor, which \(LayoutFaults.rows(gap.elements, of: shape)) of \(name) should be"))
                }
                let targets = pieces.compactMap { piece in
                    merged.tensors[piece.second].map { MergeWork.Target($0, elements: piece.firstElements, start: piece.secondStart) }
                }
                for target in targets where !isOfType(target.merged) {
                    faults.append(
                        Fault(.dtypeMismatch, target.merged.name, "it is stored as \(target.merged.dtype) and should be \(dtype)"))
                }
                works += MergeWork.parts(of: tensor, merged: targets.filter { isOfType($0.merged) })
                continue
            }
            guard let other = merged.tensors[renamed[name] ?? name] else {
                if let same = model.copied(by: name), merged.tensors[renamed[same] ?? same] != nil { continue }
                if strangers.contains(name) {
                    doubts.append(LayoutFaults.doubt(name, of: "the merged model"))
                    continue
                }
                coverage.missing.append(name)
                if let embedding = model.separated[name] {
                    faults.insert(
                        Fault(
                            .tiedHeadOverwritten, name,
                            "the adapter makes embedding and head differ, and the merged model still has one matrix, \(embedding), for both; it needs the head's own and tie_word_embeddings false"
                        ), at: 0)
                } else {
                    faults.append(Fault(.missingTensor, name, "the merged model does not hold the tensor \(describe(shape: shape))"))
                }
                continue
            }
            guard other.shape == shape else {
                faults.append(
                    Fault(.shapeMismatch, name, "its shape is \(describe(shape: other.shape)) and should be \(describe(shape: shape))"))
                continue
            }
            guard isOfType(other) else {
                faults.append(Fault(.dtypeMismatch, name, "it is stored as \(other.dtype) and should be \(dtype)"))
                continue
            }
            works += MergeWork.parts(of: tensor, merged: [.init(other, elements: 0..<tensor.source.elementCount, start: 0)])
        }
        for gap in correspondence.gaps.second {
            coverage.extra.append(gap.tensor)
            let rows = LayoutFaults.rows(gap.elements, of: merged.tensors[gap.tensor]?.shape ?? [])
            faults.append(Fault(.extraTensor, gap.tensor, "\(rows) should be \(gap.missing), which neither the base nor an adapter holds"))
        }
        let names = Set(doubled.map { renamed[$0.name] ?? $0.name }).union(correspondence.counterparts)
        let storedNames = model.decodes ? Set(model.base.files.stored.keys) : []
        for name in merged.tensors.keys where !names.contains(name) {
            if strangers.contains(name) {
                doubts.append(LayoutFaults.doubt(name, of: "the base"))
                continue
            }
            coverage.extra.append(name)
            let isOfCodes = model.decodes && storedNames.contains(name)
            faults.append(
                Fault(
                    .extraTensor, name,
                    isOfCodes
                        ? "it belongs to the codes of the base, and the model should have full weights"
                        : "neither the base nor an adapter holds the tensor"))
        }
        return works
    }

    // MARK: Judgement

    /// Judges works by the definition; and, where the base is decoded from codes and that does not explain them, by the
    /// rounded weights that libraries hold. One of the two must explain the whole model.
    private static func judge(
        _ works: [MergeWork], of model: AdaptedModel, options: Options
    ) throws -> (works: [MergeWork], results: [(outcome: WorkOutcome, judgement: WorkJudgement?)], roundedTo: DType?) {
        let results = try judge(works, options: options)
        guard model.decodes else { return (works, results, nil) }
        func isUnexplained(_ result: (outcome: WorkOutcome, judgement: WorkJudgement?)) -> Bool {
            (result.judgement?.standing.severity ?? 0) > MergeStanding.replayed(.plain).severity || result.outcome.differs
        }
        var best = (works: works, results: results, roundedTo: DType?.none)
        let decoded = works.indices.filter { works[$0].source.encoded != nil }
        // Libraries hold them in the type that the configuration names, or in the one that they were told and save.
        let types = Set([model.base.statedType] + decoded.map { works[$0].merged.dtype })
        for type in types.sorted(by: { $0.rawValue < $1.rawValue }) where type == .bf16 || type == .f16 {
            let count = decoded.count { isUnexplained(best.results[$0]) }
            guard count > 0 else { break }
            let rounded = decoded.map { works[$0].roundingSource(to: type) }
            let others = try judge(rounded, options: options)
            let isBetter = others.count(where: isUnexplained) < count
            // A weight without its update is the same number rounded once, however the others were merged.
            for (number, (work, other)) in zip(decoded, zip(rounded, others))
            where isBetter || isUnexplained(best.results[number]) && other.judgement?.fault?.code == .notMerged {
                (best.works[number], best.results[number]) = (work, other)
            }
            if isBetter { best.roundedTo = type }
        }
        return best
    }

    /// Measures and judges works. Those that no likely way of merging explains are measured once more and held against all of them; and
    /// so are those of which one explains the few elements that are not the correctly rounded ones, to see that it explains all others
    /// as well.
    private static func judge(_ works: [MergeWork], options: Options) throws -> [(outcome: WorkOutcome, judgement: WorkJudgement?)] {
        func judge(_ works: [MergeWork], _ recipes: MergeWork.Recipes, isThorough: Bool) throws -> [(WorkOutcome, WorkJudgement?)] {
            let outcomes = try MergeWork.measure(
                works, recipes: recipes, isThorough: isThorough, threads: options.threads, isCancelled: options.isCancelled)
            return zip(works, outcomes).map { work, outcome in
                guard case .measured(let tally) = outcome else { return (outcome, nil) }
                return (outcome, WorkJudgement(work, tally, recipes: recipes))
            }
        }
        var results = try judge(works, .likely, isThorough: false)
        func again(_ recipes: MergeWork.Recipes, where isWanted: (MergeWork, VerificationTally, MergeStanding) -> Bool) throws {
            let numbers = works.indices.filter { number in
                guard case .measured(let tally) = results[number].0, let judgement = results[number].1 else { return false }
                return isWanted(works[number], tally, judgement.standing)
            }
            let repeated = try judge(numbers.map { works[$0] }, recipes, isThorough: true)
            for (number, result) in zip(numbers, repeated) { results[number] = result }
        }
        try again(.likely) { work, tally, standing in
            // What the plain way gives contains the correctly rounded elements, so there is nothing more to see.
            guard case .replayed(let recipe) = standing, recipe != .plain else { return false }
            return tally.differing < work.elementCount / 50
        }
        try again(.all) { work, tally, standing in
            // What no rounding takes so far, no way of merging explains.
            (standing == .withinRounding || standing == .wrong) && tally.notFinite == 0 && tally.isChanged && !work.updates.isEmpty
                && tally.beyond <= WorkJudgement.few(work)
        }
        return results
    }

    /// The names of what is wrong with works that no rounding explains, by their numbers; found side by side, since a wrong model may
    /// have many.
    private static func search(
        _ works: [MergeWork], _ results: [(outcome: WorkOutcome, judgement: WorkJudgement?)], options: Options
    ) throws -> [Int: Fault] {
        let wrong = works.indices.compactMap { number -> (number: Int, tally: VerificationTally)? in
            guard case .measured(let tally) = results[number].outcome, let judgement = results[number].judgement else { return nil }
            return judgement.standing == .wrong && judgement.fault == nil ? (number, tally) : nil
        }
        let found = Mutex<[Int: Fault]>([:])
        try ThreadPool.forEach(wrong.count, threads: options.threads) { index in
            guard !options.isCancelled() else { throw MergeError(.interrupted, path: "verify", "the verification was interrupted") }
            let (number, tally) = wrong[index]
            let fault = try FaultSearch(works[number], tally).fault(among: works)
            found.withLock { $0[number] = fault }
        }
        return found.withLock { $0 }
    }

    /// Of a tensor whose bytes must be the source's.
    private static func copyFaults(
        _ work: MergeWork, differing: Int, first: Int, coverage: inout MergeVerdict.Coverage
    ) -> [Fault] {
        guard differing > 0 else { return [] }
        if !work.isReplaced { coverage.baseChangedWithoutAdapter.append(work.name) }
        let why = work.module == nil ? "no adapter names it" : "the adapter's update of it is zero"
        let owner = work.isReplaced ? "those that the adapter puts there" : "the base's and \(why)"
        var faults: [Fault] = []
        var message = "\(differing) of \(work.elementCount) elements are not \(owner); the first is element \(work.place(first))"
        if work.merged.dtype.isFloat {
            let stored = StoredElement.value(work.merged, first + work.shift)
            let before = StoredElement.value(work.source, work.sourceIndex(first))
            message += ", \(stored) where \(work.isReplaced ? "the adapter" : "the base") has \(before)"
            if !stored.isFinite {
                faults.append(Fault(.notFinite, work.name, "element \(work.place(first)) is infinite or NaN"))
            }
        }
        faults.append(Fault(work.isReplaced ? .wrongReplacement : .baseChangedWithoutAdapter, work.name, message))
        return faults
    }

    private static func module(_ path: ModulePath, _ parts: [(MergeWork, VerificationTally, MergeStanding)]) -> MergeVerdict.Module {
        var tally = VerificationTally()
        for part in parts { tally.add(part.1) }
        let hasUpdate = tally.updateSquared > 0
        return .init(
            path: path, standing: parts.reduce(.exact) { $0.worse($1.2) }, elements: parts.reduce(0) { $0 + $1.0.elementCount },
            projection: hasUpdate ? tally.updateTimesChange / tally.updateSquared : nil,
            relativeResidual: hasUpdate ? (tally.residualSquared / tally.updateSquared).squareRoot() : nil, maxUlp: tally.largestSteps,
            survival: hasUpdate ? tally.updateTimesExpected / tally.updateSquared : nil, differingElements: tally.differing,
            histogram: tally.histogram,
            stepsToDouble: parts.map(\.0.merged.dtype.stepsToDouble).min() ?? .max)
    }

    /// Whether the merged model was made from another base: most of what no adapter touches is not the base's, and no adapted weight
    /// is right.
    private static func baseFault(_ works: [MergeWork], _ outcomes: [WorkOutcome], _ faults: [Fault]) -> Fault? {
        var (untouched, changed, adapted, explained) = (0, 0, 0, 0)
        let wrong = Set(faults.filter { $0.code == .wrongUpdate }.map(\.module))
        for (work, outcome) in zip(works, outcomes) where work.merged.dtype.isFloat && work.elementCount > 1 {
            switch outcome {
            case .compared(let differing, _) where !work.isReplaced:
                untouched += 1
                if differing > work.elementCount / 2 { changed += 1 }
            case .measured where !work.updates.isEmpty:
                adapted += 1
                if !wrong.contains(work.label) { explained += 1 }
            default:
                break
            }
        }
        // Whoever verifies another adapter than was merged sees the tensors of that one changed, and embeddings and norms as they were.
        guard changed + (adapted - explained) >= 2, 10 * changed >= 9 * untouched, adapted == 0 || 4 * explained <= adapted else { return nil }
        guard untouched > 0 || adapted > 1 else { return nil }
        return Fault(
            .wrongBase, "",
            [
                untouched == 0 ? nil : "\(changed) of \(untouched) tensors that no adapter touches are not the base's",
                adapted == 0 ? nil : "base and adapter explain \(explained) of \(adapted) adapted weights",
            ].compactMap(\.self).joined(separator: ", and ") + ": the merged model was made from another base"
        )
    }

    // MARK: The other files

    private static func folderFaults(model: AdaptedModel, merged: String, files: ModelWeights, isOfOtherLayout: Bool) throws -> [Fault] {
        guard FileSystem.isFolder(merged) else { return [] }
        var faults: [Fault] = []
        for name in ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]
        where FileSystem.exists(FileSystem.join(merged, name)) {
            faults.append(Fault(.leftoverAdapter, name, "the merged folder holds this file of an adapter, and loaders would apply it once more"))
        }
        let standIns = try StandIn.files(of: files)
        faults += standIns.map { Fault(.fileNotFetched, $0.name, $0.nature.explanation) }
        // The configurations of two layouts have other fields.
        guard !isOfOtherLayout || model.base.configuration?["_class_name"] == nil, !standIns.contains(where: { $0.name == "config.json" }),
            let before = model.configuration
        else { return faults }
        guard let after = configuration(merged) else {
            faults.append(Fault(.configurationDiffers, "config.json", "the base has one and the merged folder has none that can be read"))
            return faults
        }
        let ties = tieFaults(model, before: before, after: after)
        faults += ties
        faults += codeFaults(model, after: QuantizationSettings(after), merged: merged, files: files)
        // One matrix held under all its names is as well as once, and what is held apart is not tied whatever the base says.
        let holdsAll = model.base.ties.allSatisfy { tie in tie.members.allSatisfy { files.tensors[$0] != nil } }
        for difference in ArchitectureFields.differences(before, after) {
            if ties.contains(where: { $0.module == difference.field }) { continue }
            if holdsAll, difference.field == BaseModel.tieField, difference.after == false { continue }
            faults.append(
                Fault(
                    .configurationDiffers, difference.field,
                    "config.json says \(difference.after.inWords) and should say \(difference.before.inWords)"))
        }
        return faults
    }

    /// What is said of codes and is not so in the merged model.
    private static func codeFaults(_ model: AdaptedModel, after: QuantizationSettings, merged: String, files: ModelWeights) -> [Fault] {
        let before = QuantizationSettings(model.base.configuration)
        guard !files.quantization.hasCodes else {
            guard !model.decodes, model.base.files.quantization.hasCodes else { return [] }
            if let stated = before.missing(in: after) {
                return [
                    Fault(
                        .quantizationDiffers, stated.name,
                        "the model holds the base's codes, and config.json does not say of them what the base's does: \(stated.value.inWords)")
                ]
            }
            // The same words with others beside them may mean other numbers.
            let (base, other) = (model.base.files.decoded.tensors, files.decoded.tensors)
            for (name, weight) in base {
                guard let meaning = weight.encoded?.meaning, let found = other[name], found.encoded?.meaning != meaning else { continue }
                return [
                    Fault(
                        .quantizationDiffers, name,
                        "its codes are \(meaning), and in the merged model \(found.encoded?.meaning ?? "nothing that can be read")")
                ]
            }
            return []
        }
        let fields = after.statements.filter { model.decodes || !before.statements.contains($0) }.map { statement in
            Fault(.quantizationDiffers, statement.name, "config.json says how codes are meant, and the model holds full weights")
        }
        let names = model.decodes ? QuantizationSettings.files : []
        return fields
            + names.filter { FileSystem.exists(FileSystem.join(merged, $0)) }.map { name in
                Fault(.quantizationDiffers, name, "this file says how codes are meant, and the model holds full weights")
            }
    }

    /// Fields that call one what the adapter makes differ: some programs drop the head of such a model.
    private static func tieFaults(_ model: AdaptedModel, before: JSONValue, after: JSONValue) -> [Fault] {
        guard model.isUntied else { return [] }
        let stated = Dictionary(BaseModel.tieFields(of: after).map { ($0.name, $0.value) }) { $1 }
        return BaseModel.tieFields(of: before).filter { $0.value == false && stated[$0.name] != false }.map { field in
            let found = stated[field.name].map { "says \($0.serialized())" } ?? "does not say it"
            return Fault(.configurationDiffers, field.name, "config.json \(found) and should say false: the adapter makes embedding and head differ")
        }
    }

    private static func configuration(_ folder: String) -> JSONValue? {
        guard let text = try? FileSystem.contents(of: FileSystem.join(folder, "config.json"), limit: 16_000_000) else { return nil }
        return try? JSONValue(configuration: text)
    }
}
