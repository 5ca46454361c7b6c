import Testing

@testable import Families

/// The rules that every row of the table keeps. A new row is tested before its author writes a test.
struct ModelFamiliesTests {
    /// The name of a row in messages.
    struct Row: CustomTestStringConvertible, Sendable {
        let family: ModelFamily
        var testDescription: String { family.types.sorted().joined(separator: " ") }
    }

    static let rows = ModelFamilies.all.map(Row.init)

    @Test func noTypeIsInTwoRows() {
        var seen: Set<String> = []
        for type in ModelFamilies.all.flatMap(\.types) { #expect(seen.insert(type).inserted, "\(type) is in two rows") }
        for type in seen { #expect(ModelFamilies.family(of: type)?.types.contains(type) == true) }
    }

    @Test(arguments: rows)
    func aRowHasTypesAndStatesAFact(row: Row) {
        let family = row.family
        #expect(!family.types.isEmpty && family.types.allSatisfy { !$0.isEmpty && !$0.contains(" ") })
        let states = [
            family.memory != .init(), family.ties != .init(), family.experts != .init(),
            !family.transposedModules.isEmpty, !family.embeddingModules.isEmpty, family.ggml != nil,
            family.mlx != .init(), family.block != nil,
        ]
        #expect(states.contains(true), "the row states nothing, and the type needs no row")
    }

    // MARK: Names in memory

    /// A run of components, with `^` and `#` where they may stand.
    private func isRun(_ run: Substring) -> Bool {
        run.split(separator: ".", omittingEmptySubsequences: false).allSatisfy { component in
            component == "#"
                || !component.isEmpty && component.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_") }
        }
    }

    private func expectRenaming(_ text: String) {
        let runs = text.split(separator: " ", omittingEmptySubsequences: false)
        guard (1...2).contains(runs.count), let old = runs.first else {
            Issue.record("\"\(text)\" is not two runs")
            return
        }
        #expect(isRun(old.first == "^" ? old.dropFirst() : old), "\"\(text)\"")
        // A run without a second one is removed, which is safe only at the start of a name.
        #expect(runs.count == 2 ? isRun(runs[1]) : old.first == "^", "\"\(text)\"")
        let numbers = runs.map { $0.count { $0 == "#" } }
        #expect(runs.count == 1 || numbers[0] == numbers[1], "\"\(text)\" loses a number")
        #expect(runs.count == 1 || runs[0] != runs[1], "\"\(text)\" renames nothing")
    }

    @Test(arguments: rows)
    func renamingsAreSound(row: Row) {
        let memory = row.family.memory
        let all = memory.renamings + memory.renamingsAlone
        #expect(Set(all).count == all.count, "a renaming is there twice")
        for text in all { expectRenaming(text) }
    }

    @Test func generalRenamingsAreSound() {
        for text in MemoryNaming.general + MemoryNaming.mixtures { expectRenaming(text) }
    }

    @Test(arguments: rows)
    func framesAreSound(row: Row) {
        let memory = row.family.memory
        #expect(!memory.innerModel.isEmpty)
        #expect(memory.outerPrefix.isEmpty || memory.outerPrefix.hasSuffix("."))
        switch memory.frame {
        case .ofInnerModel(let parts): #expect(!parts.isEmpty && !parts.contains(memory.innerModel))
        case .kept, .unknown:
            #expect(memory.innerModel == "model" && !memory.hidesInnerModel && memory.hiddenClasses.isEmpty)
        case .ofFiles: break
        }
    }

    // MARK: Ties and experts

    @Test(arguments: rows)
    func tiesStateWhatTheWeightsDoNotTell(row: Row) {
        let ties = row.family.ties
        let heads = [ties.pair != nil, ties.head != nil, ties.hasNoHead]
        #expect(heads.count { $0 } <= 1, "the facts contradict each other")
        #expect(ties.head != "lm_head", "the head has this name in every family")
        if let pair = ties.pair {
            #expect(pair.embedding != pair.head)
            for path in [pair.embedding, pair.head] { #expect(isRun(path[...]), "\(path)") }
        }
    }

    @Test(arguments: rows)
    func targetsOfExpertsAreThoseOfPlainOnes(row: Row) {
        let experts = row.family.experts
        #expect(experts.targets.isEmpty || experts.targets.contains("gate"))
        #expect(experts.order == .plain || experts.targets.isEmpty)
    }

    @Test func everyMatrixOfAnExpertBelongsToAStack() {
        for (parameter, namings) in ExpertNames.matrices {
            #expect(Set(namings.map(\.count)).count == 1, "\(parameter)")
            for matrix in namings.flatMap(\.self) {
                #expect(ExpertNames.matrices.values.contains { $0.contains([matrix]) }, "\(matrix)")
            }
        }
    }

    // MARK: ggml and mlx-lm

    @Test(arguments: rows.filter { $0.family.ggml != nil })
    func namesAtGGMLAreSound(row: Row) throws {
        let naming = try #require(row.family.ggml)
        #expect(Set(naming.modules.map(\.ggml)).isSuperset(of: naming.interleaved))
        #expect(naming.modules.allSatisfy { $0.memory.split(separator: ".").count == 2 }, "a block and a layer in it")
        // An adapter names the architecture alone.
        let same = ModelFamilies.all.compactMap(\.ggml).filter { $0.architecture == naming.architecture }
        #expect(same.allSatisfy { $0 == naming }, "rows with the architecture \(naming.architecture) differ")
    }

    @Test(arguments: rows)
    func rulesForMLXAreSound(row: Row) {
        let mlx = row.family.mlx
        #expect(Set(mlx.rules.map(\.name)).count == mlx.rules.count, "only the first of two rules would count")
        #expect(mlx.refusal == nil || mlx.rules.isEmpty && mlx.experts.isEmpty && mlx.languageModel == nil)
        for rule in mlx.rules {
            #expect(isRun(rule.name[...]))
            switch rule.outcome {
            case .named(let new): #expect(isRun(new[...]) && new != rule.name)
            case .refused(let reason): #expect(!reason.isEmpty)
            }
        }
    }

    // MARK: Blocks

    @Test(arguments: rows.filter { $0.family.block != nil })
    func aFamilyThatRunsHasWholeBlocks(row: Row) throws {
        let block = try #require(row.family.block)
        #expect(row.family.memory.frame != .unknown)
        #expect(block.halves.allSatisfy { !$0.norm.isEmpty })
        #expect(Set(block.halves.map(\.norm)).count == block.halves.count)
        let hasAttention = block.halves.contains { if case .attention = $0.body { true } else { false } }
        let hasFeedForward = block.halves.contains { if case .gatedFeedForward = $0.body { true } else { false } }
        #expect(hasAttention && hasFeedForward)
        #expect(row.family.types.isSubset(of: ModelFamilies.running))
    }

    // MARK: Looking up

    @Test func familiesOfAModelComeInTheOrderOfTheTableAndOnce() {
        let found = ModelFamilies.families(of: ["qwen3", "mistral", "llama", "no such type"])
        #expect(found.map(\.types) == [["llama", "mistral"], ["qwen3"]])
        #expect(ModelFamilies.families(of: []).isEmpty && ModelFamilies.family(of: "no such type") == nil)
    }

    @Test func aRuleOfSeveralFamiliesIsThereOnceWithAllTypes() throws {
        let rules = ModelFamilies.atMLX.filter { $0.rule.name == "kv_b_proj" }
        #expect(rules.count == 1)
        #expect(try #require(rules.first).types.isSuperset(of: ["deepseek_v3", "kimi_linear", "mistral4"]))
    }
}
