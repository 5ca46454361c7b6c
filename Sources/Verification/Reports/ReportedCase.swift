internal import Adapters

/// What a report has one entry of: a module of the adapter, or something beside the modules that is wrong.
struct ReportedCase {
    let name: String
    let faults: [Fault]
    let doubts: [Fault]

    /// The modules in their order, then what is wrong elsewhere.
    static func all(_ verdict: MergeVerdict) -> [ReportedCase] {
        let faults = Dictionary(grouping: verdict.faults, by: \.module)
        let doubts = Dictionary(grouping: verdict.doubts, by: \.module)
        let modules = verdict.modules.map { module in
            ReportedCase(name: module.path.text, faults: faults[module.path.text] ?? [], doubts: doubts[module.path.text] ?? [])
        }
        let function = verdict.function.map { _ in
            ReportedCase(name: MergeVerdict.promptsSubject, faults: faults[MergeVerdict.promptsSubject] ?? [], doubts: [])
        }
        let named = Set(modules.map(\.name) + (function.map { [$0.name] } ?? []))
        let others = verdict.faults.filter { !named.contains($0.module) }.map {
            ReportedCase(name: $0.module.isEmpty ? $0.code.title : $0.module, faults: [$0], doubts: [])
        }
        return modules + (function.map { [$0] } ?? []) + others
    }
}
